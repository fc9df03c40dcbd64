"""Sessions, logins and messages for the console alone: requests to the API carry a bearer token, and would
pay for what none of them uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib.auth.middleware import AuthenticationMiddleware
from django.contrib.messages.middleware import MessageMiddleware
from django.contrib.sessions.middleware import SessionMiddleware
from django.http import HttpRequest

from comfyserve.api.middleware import is_console

if TYPE_CHECKING:
    from django.utils.deprecation import MiddlewareMixin as Base
else:
    Base = object


class _ConsoleOnly(Base):
    """Other requests pass it by, on both halves of the server."""

    def __call__(self, request: HttpRequest) -> Any:
        return super().__call__(request) if is_console(request.path_info) else self.get_response(request)


class ConsoleSessions(_ConsoleOnly, SessionMiddleware):
    pass


class ConsoleLogins(_ConsoleOnly, AuthenticationMiddleware):
    pass


class ConsoleMessages(_ConsoleOnly, MessageMiddleware):
    pass
