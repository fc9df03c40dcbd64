"""/schema, /docs and /redoc: served entirely by this server, without third-party hosts."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularAPIView, SpectacularRedocView, SpectacularSwaggerSplitView
from rest_framework.request import Request
from rest_framework.response import Response

# Scripts and styles are our static files; ReDoc searches in a worker and draws its own logo.
POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; worker-src 'self' blob:; "
    "frame-ancestors 'none'"
)


@lru_cache(maxsize=1)
def schema() -> dict[str, Any]:
    """The full schema; generated once per process, which takes some 100 ms."""
    made: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)
    return made


class SchemaView(SpectacularAPIView):
    authentication_classes = ()

    @extend_schema(exclude=True)
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:  # noqa: ARG002
        suffix = self.perform_content_negotiation(request, force=True)[0].format
        return Response(schema(), headers={"Content-Disposition": f'inline; filename="openapi.{suffix}"'})


class SwaggerView(SpectacularSwaggerSplitView):
    authentication_classes = ()

    @extend_schema(exclude=True)
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return _page(super().get(request, *args, **kwargs))  # type: ignore[no-untyped-call]


class RedocView(SpectacularRedocView):
    authentication_classes = ()

    @extend_schema(exclude=True)
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return _page(super().get(request, *args, **kwargs))  # type: ignore[no-untyped-call]


def _page(response: Response) -> Response:
    response["Content-Security-Policy"] = POLICY
    return response
