"""/schema, /docs and /redoc: served entirely by this server, without third-party hosts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from django.http import HttpResponse
from django.http.response import HttpResponseBase
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularAPIView, SpectacularRedocView, SpectacularSwaggerSplitView
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from . import addresses

# Scripts and styles are our static files; ReDoc searches in a worker and draws its own logo.
POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; worker-src 'self' blob:; "
    "frame-ancestors 'none'"
)


EXAMPLE = "API=http://localhost:8000"  # in the description: replaced by the address that was asked
# Anybody may ask for the schema, and many at once: one thread makes it, the others wait. drf-spectacular's
# generator is not thread-safe either.
_making = threading.RLock()


def schema() -> dict[str, Any]:
    """The full schema; generated once per process, which takes some 100 ms."""
    with _making:
        return _schema()


def rendered(renderer: Callable[[], BaseRenderer]) -> bytes:
    """The public schema, rendered once per process: as YAML it takes 150 ms."""
    with _making:
        return _rendered(renderer)


@lru_cache(maxsize=1)
def _schema() -> dict[str, Any]:
    made: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)
    return made


@lru_cache(maxsize=8)
def _rendered(renderer: Callable[[], BaseRenderer]) -> bytes:
    made = renderer()
    text = made.render(_schema(), made.media_type, {})
    return text if isinstance(text, bytes) else str(text).encode()


class SchemaView(SpectacularAPIView):
    authentication_classes = ()

    @extend_schema(exclude=True)
    def get(self, request: Request, *args: Any, **kwargs: Any) -> HttpResponseBase:  # noqa: ARG002
        renderer, _ = self.perform_content_negotiation(request, force=True)
        headers = {"Content-Disposition": f'inline; filename="openapi.{renderer.format}"'}
        own, here = self.schema_for(request), f"API={addresses.base_of(request._request)}"
        if own is not None:
            about = {**own["info"], "description": own["info"]["description"].replace(EXAMPLE, here)}
            own = {**own, "info": about}
            return Response(own, headers=headers | {"Cache-Control": "private, no-store"})
        charset = f"; charset={renderer.charset}" if renderer.charset else ""
        content_type = f"{renderer.media_type}{charset}"
        content = rendered(type(renderer)).replace(EXAMPLE.encode(), here.encode())
        return HttpResponse(content, content_type=content_type, headers=headers)

    def schema_for(self, request: Request) -> dict[str, Any] | None:  # noqa: ARG002
        """The schema for this caller, where it differs from the public one."""
        return None


class SwaggerView(SpectacularSwaggerSplitView):
    authentication_classes = ()
    metadata_class = None  # OPTIONS: pages have no fields to describe

    @extend_schema(exclude=True)
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return _page(super().get(request, *args, **kwargs))  # type: ignore[no-untyped-call]


class RedocView(SpectacularRedocView):
    authentication_classes = ()
    metadata_class = None

    @extend_schema(exclude=True)
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return _page(super().get(request, *args, **kwargs))  # type: ignore[no-untyped-call]


def _page(response: Response) -> Response:
    response["Content-Security-Policy"] = POLICY
    return response
