"""Authentication: a bearer token, either an access token or an API key, looked up once per request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from accounts import api_keys, sessions
from accounts.models import ApiKey, Scope, Session, User
from comfyserve import logs
from comfyserve.api import path_keys
from comfyserve.api.errors import Forbidden, Unauthorized


@dataclass(frozen=True)
class Identity:
    user: User
    via: Session | ApiKey


def identify(request: HttpRequest) -> Identity | None:
    """The owner of the request's bearer token; None without a valid one.

    One query at the first call, cached on the request for later ones. Forbidden for a key that may not do
    what the request asks for.
    """
    if not hasattr(request, "bearer_identity"):
        token = bearer_token(request)
        request.bearer_identity = _permitted(request, _look_up(token) if token else None)  # type: ignore[attr-defined]
        if request.bearer_identity is not None:  # type: ignore[attr-defined]
            logs.bind(user_id=request.bearer_identity.user.pk)  # type: ignore[attr-defined]
    found: Identity | None = request.bearer_identity  # type: ignore[attr-defined]
    return found


def require(request: HttpRequest) -> User:
    """For views outside REST framework, such as the live streams. Unauthorized if unauthenticated."""
    identity = identify(request)
    if identity is None:
        raise Unauthorized(_refusal(request), headers={"WWW-Authenticate": "Bearer"})
    return identity.user


def user_id_of(authorization: str) -> int | None:
    """The user whose valid credential an Authorization header carries. One query at most."""
    token = _bearer(authorization)
    identity = _look_up(token) if token else None
    return identity.user.pk if identity else None


def bearer_token(request: HttpRequest) -> str | None:
    """What follows "Bearer" in the header; "" if nothing does; None for another scheme or no header."""
    return _bearer(request.headers.get("Authorization", ""))


def _bearer(authorization: str) -> str | None:
    scheme, _, token = authorization.strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _look_up(token: str) -> Identity | None:
    if token.startswith(api_keys.MARK):
        key = api_keys.find(token)
        return Identity(key.user, key) if key else None
    session = sessions.find(access_token=token)
    return Identity(session.user, session) if session else None


def _permitted(request: HttpRequest, identity: Identity | None) -> Identity | None:
    """Forbidden where the key may not do this. In the path, only keys limited to these routes are valid."""
    if identity is None:
        return None
    scope = identity.via.scope if isinstance(identity.via, ApiKey) else Scope.ALL
    if scope == Scope.COMFYUI and not request.path_info.startswith(f"{path_keys.DOOR}/"):
        raise Forbidden("This API key is limited to ComfyUI's routes")
    if path_keys.is_in_path(request) and scope != Scope.COMFYUI:
        return None
    return identity


def _refusal(request: HttpRequest) -> str:
    if bearer_token(request) is None:
        return "Authentication required: send an Authorization header with a bearer token"
    return "The token is not valid or has expired"


class AuthenticatedRequest(Request):
    """The request type of views that require a login; for annotations only, never instantiated."""

    user: User
    auth: Session | ApiKey


class BearerAuthentication(BaseAuthentication):
    def authenticate(self, request: Request) -> tuple[User, Any] | None:
        identity = identify(request._request)
        if identity is not None:
            return identity.user, identity.via
        if bearer_token(request._request) is not None:
            raise AuthenticationFailed(_refusal(request._request))
        return None

    def authenticate_header(self, request: Request) -> str:  # noqa: ARG002
        return "Bearer"
