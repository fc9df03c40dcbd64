"""Handling of errors for doors whose APIs have their own format: each only says how to render one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from rest_framework.response import Response

from .errors import ApiError, as_api_error
from .rendering import rendered

AsyncView = Callable[..., Awaitable[HttpResponseBase]]
Render = Callable[[ApiError], tuple[int, dict[str, Any], dict[str, str]]]  # (status, body, headers)


class ErrorFormat:
    def __init__(self, render: Render) -> None:
        self._render = render

    def handle(self, exc: Exception, context: Mapping[str, Any]) -> Response | None:  # noqa: ARG002
        """REST framework's exception handler. None if it is not an API error: Django's handler500 logs it."""
        known = as_api_error(exc)
        if known is None:
            return None
        status, body, headers = self._render(known)
        return Response(body, status=status, headers=headers)

    def applied_to(self, view: AsyncView) -> AsyncView:
        """The same for views outside REST framework."""

        @wraps(view)
        async def wrapped(request: HttpRequest, **arguments: str) -> HttpResponseBase:
            try:
                return await view(request, **arguments)
            except Exception as exc:
                known = as_api_error(exc)
                if known is None:
                    raise
                status, body, headers = self._render(known)
                content = rendered(body)
                return HttpResponse(content, status=status, content_type="application/json", headers=headers)

        return wrapped
