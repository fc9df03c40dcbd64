from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponse
from django.urls import is_valid_path

from . import request_ids


class Middleware:
    """Middleware for both halves of the server: `before` the view, `after` on its answer."""

    sync_capable = async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        self.before(request)
        response = self.get_response(request)
        if iscoroutinefunction(self.get_response):
            return self._later(request, response)
        return self.after(request, response)

    async def _later(self, request: HttpRequest, response: Awaitable[HttpResponse]) -> HttpResponse:
        return self.after(request, await response)

    def before(self, request: HttpRequest) -> None: ...

    def after(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        return response


class RequestIdMiddleware(Middleware):
    def before(self, request: HttpRequest) -> None:
        request.request_id = request_ids.begin(request.headers.get("X-Request-ID"))  # type: ignore[attr-defined]

    def after(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        response["X-Request-ID"] = request.request_id  # type: ignore[attr-defined]
        return response


class EitherSlashMiddleware(Middleware):
    """Every path answers with and without a trailing slash, also POST, without a redirect."""

    def before(self, request: HttpRequest) -> None:
        path = request.path_info
        if path != "/" and not is_valid_path(path):
            other = path[:-1] if path.endswith("/") else f"{path}/"
            if is_valid_path(other):
                request.path_info = other
