"""Middleware that needs the user: the audit log's context and the rate limits."""

from __future__ import annotations

from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse

from accounts import audit, authentication
from comfyserve.api import errors, rate_limits
from comfyserve.api.errors import ApiError
from comfyserve.api.middleware import Middleware, is_counted


class AuditMiddleware(Middleware):
    """Attributes every audit row written during the request to it."""

    def before(self, request: HttpRequest) -> None:
        audit.begin(request)

    def after(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:  # noqa: ARG002
        audit.end()
        return response


class RateLimitMiddleware(Middleware):
    """Counts the request for its user, or else its address. Inside CORS, so that browsers see a 429."""

    blocks = True

    def before(self, request: HttpRequest) -> HttpResponse | None:
        if not is_counted(request.path_info):
            return None
        try:
            identity = authentication.identify(request)
            request.rate_usage = rate_limits.count(request, user=identity and identity.user)  # type: ignore[attr-defined]
        except (ApiError, DatabaseError) as exc:
            return errors.response(request, exc)
        return None
