"""Middleware for every request and response, on both the WSGI and the ASGI half."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import Resolver404, ResolverMatch, resolve

from comfyserve import logs
from comfyserve.db import connections

from . import errors, rate_limits, request_ids
from .errors import Detail, ValidationFailed
from .gate.application import REFUSAL
from .gate.routes import route_of


class Middleware:
    """Base for both halves of the server: `before` the view, `after` on its response."""

    sync_capable = async_capable = True
    blocks = False  # `before` queries the database or Redis: on the ASGI half it runs in a thread

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        if self._is_async:
            return self._call_async(request)
        response = self.before(request) or self.get_response(request)
        return self.after(request, response)

    async def _call_async(self, request: HttpRequest) -> HttpResponse:
        early = await sync_to_async(self._before_in_thread)(request) if self.blocks else self.before(request)
        return self.after(request, early or await self.get_response(request))

    def _before_in_thread(self, request: HttpRequest) -> HttpResponse | None:
        """Such a request may last for hours: its database connection returns to the pool immediately."""
        try:
            return self.before(request)
        finally:
            connections.release()

    def before(self, request: HttpRequest) -> HttpResponse | None:
        """A response returned here is final; the view is not called."""

    def after(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:  # noqa: ARG002
        return response


class HostMiddleware(Middleware):
    """Enforces ALLOWED_HOSTS for every request: Django itself checks it only where a URL is built."""

    # Load balancers and Prometheus request these by address; they disclose nothing about users.
    FOR_ANY_NAME = ("/health", "/health/liveness", "/health/readiness", "/metrics")

    def before(self, request: HttpRequest) -> None:
        if request.path_info.rstrip("/") not in self.FOR_ANY_NAME:
            request.get_host()  # raises DisallowedHost, which is answered with 400


class RequestIdMiddleware(Middleware):
    def before(self, request: HttpRequest) -> None:
        logs.clear()
        request.request_id = request_ids.begin(request.headers.get("X-Request-ID"))  # type: ignore[attr-defined]

    def after(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        response["X-Request-ID"] = request.request_id  # type: ignore[attr-defined]
        if not response.streaming:
            response.setdefault("Content-Length", str(len(response.content)))
        return response


class ErrorsMiddleware(Middleware):
    """Renders exceptions of views outside REST framework (streams, the admin) in the error format as well."""

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        known = errors.as_api_error(exception)
        return errors.response(request, known) if known else None


class ErrorShapeMiddleware(Middleware):
    """Base class: render errors below a path in another API's format, including those that no view raises:
    of the gate, the rate limit and the URL resolver.
    """

    prefix = ""

    def after(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        below = request.path_info.startswith(self.prefix)
        if response.status_code >= 400 and below and not response.streaming:
            self._rewrite(response)
        return response

    def _rewrite(self, response: HttpResponse) -> None:
        try:
            ours = json.loads(response.content)
        except ValueError:
            return
        if not isinstance(ours, dict) or not isinstance(ours.get("error"), str) or "request_id" not in ours:
            return  # it is in that format already
        details = ours.get("details") or []
        known = errors.ApiError(ours["message"], details=[errors.Detail(**each) for each in details])
        known.status, known.error = response.status_code, ours["error"]
        shown = self.reshaped(known)
        response.content = json.dumps(shown).encode()
        response.headers.pop("Content-Length", None)

    def reshaped(self, known: errors.ApiError) -> dict[str, Any]:
        """The body in the other API's format."""
        raise NotImplementedError


CONSOLE, CONSOLE_LOGIN = "/admin", "/admin/login"
UNCOUNTED = ("/health", "/metrics", settings.STATIC_URL.rstrip("/"), CONSOLE)


def is_counted(path: str) -> bool:
    """Probes, metrics and static files are not counted, and so need no Redis. Nor is the console, whose pages
    refresh themselves, except its login."""
    return _is_below(path, CONSOLE_LOGIN) or not any(_is_below(path, start) for start in UNCOUNTED)


def is_console(path: str) -> bool:
    return _is_below(path, CONSOLE)


def _is_below(path: str, start: str) -> bool:
    return path == start or path.startswith(f"{start}/")


class RateHeadersMiddleware(Middleware):
    """`X-RateLimit-*` on all responses; the full limit on those that were not counted."""

    def after(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        usage = getattr(request, "rate_usage", None) or rate_limits.unused(rate_limits.rates_for(None))
        for name, value in usage.headers().items() if usage else ():
            response.setdefault(name, value)  # a 429 has its own
        return response


class BodyMiddleware(Middleware):
    """Returns the gate's rejection; rejects URLs that are too long and compressed bodies before reading
    them."""

    def before(self, request: HttpRequest) -> HttpResponse | None:
        refusal = getattr(request, "scope", {}).get(REFUSAL)
        if refusal is not None:
            return errors.response(request, refusal)
        length = request.META.get("CONTENT_LENGTH") or "0"
        limit = route_of(request.method or "", request.path_info).body_bytes
        if length.isdigit() and int(length[:20]) > limit:
            message = f"The body has more than {limit} bytes"
            return errors.json_error(413, message, headers={"Connection": "close"})
        encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            return errors.json_error(
                415, "Compressed bodies are not accepted; send it without Content-Encoding"
            )
        return None


class HostileAddressMiddleware(Middleware):
    """A NUL character in the path is 404; in a query parameter it is a validation error. No view sees one."""

    def before(self, request: HttpRequest) -> HttpResponse | None:
        if "\x00" in request.path_info:
            return errors.handler404(request, None)
        query = request.META.get("QUERY_STRING", "")
        if "%00" not in query and "\x00" not in query:
            return None
        names = [name for name, value in parse_qsl(query, keep_blank_values=True) if "\x00" in name + value]
        details = [Detail("INVALID_VALUE", "NUL characters are not allowed", name) for name in names]
        return errors.response(request, ValidationFailed(details)) if details else None


POLICY = "default-src 'none'; frame-ancestors 'none'"
# Only our own scripts; unfold's Alpine evaluates the attributes in its templates, which needs unsafe-eval.
CONSOLE_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)


class SecurityHeadersMiddleware(Middleware):
    """Security headers for browsers. The docs set their own policy; JSON allows nothing."""

    def after(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        if is_console(request.path_info):
            response.setdefault("Content-Security-Policy", CONSOLE_POLICY)
        if response.get("Content-Type", "").startswith("application/json"):
            response.setdefault("Content-Security-Policy", POLICY)
            # Responses belong to one user; files and pages set their own caching headers.
            response.setdefault("Cache-Control", "no-store")
        return response


class EitherSlashMiddleware(Middleware):
    """Every path answers with and without a trailing slash, also POST, without a redirect."""

    def before(self, request: HttpRequest) -> None:
        path = request.path_info
        other = path[:-1] if path.endswith("/") else f"{path}/"
        # The match is kept: `gate.threads.ThreadHandler` does not resolve the path again.
        request.resolver_match = _match(path)
        if request.resolver_match is None and path != "/" and (match := _match(other)):
            request.path_info, request.resolver_match = other, match


def _match(path: str) -> ResolverMatch | None:
    try:
        return resolve(path)
    except Resolver404:
        return None
