"""The endpoints under /auth/."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import authenticate
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer
from rest_framework.views import APIView

from accounts import registration, sessions
from accounts.models import Session, User
from accounts.serializers import (
    LoginSerializer,
    LogoutSerializer,
    RefreshSerializer,
    RegistrationSerializer,
    TokenPairSerializer,
    UserSerializer,
)
from comfyserve.api.errors import Forbidden, Unauthorized


def checked(kind: type[BaseSerializer[Any]], request: Request) -> dict[str, Any]:
    serializer = kind(data=request.data)
    serializer.is_valid(raise_exception=True)
    return dict(serializer.validated_data)


class PublicView(APIView):
    """Open to strangers; a stale token in the header does no harm here."""

    authentication_classes = ()
    permission_classes = (AllowAny,)


class Register(PublicView):
    def post(self, request: Request) -> Response:
        user = registration.register(**checked(RegistrationSerializer, request))
        return Response(UserSerializer(user).data, status=201)


class Login(PublicView):
    def post(self, request: Request) -> Response:
        given = checked(LoginSerializer, request)
        user = authenticate(request._request, username=given["email"], password=given["password"])
        if not isinstance(user, User):
            raise Unauthorized("Wrong e-mail address or password")
        pair = sessions.start(user=user, user_agent=request.headers.get("User-Agent", ""))
        return Response(TokenPairSerializer(pair).data)


class Refresh(PublicView):
    def post(self, request: Request) -> Response:
        pair = sessions.rotate(**checked(RefreshSerializer, request))
        return Response(TokenPairSerializer(pair).data)


class Me(APIView):
    def get(self, request: Request) -> Response:
        return Response(UserSerializer(request.user).data)


class Logout(APIView):
    def post(self, request: Request) -> Response:
        everywhere = checked(LogoutSerializer, request)["everywhere"]
        if everywhere:
            sessions.end_all(user=request.user, reason=Session.End.EVERYWHERE)
        elif isinstance(request.auth, Session):
            sessions.end(session=request.auth, reason=Session.End.LOGOUT)
        else:
            raise Forbidden("An API key has no session to log out of; delete the key instead")
        return Response({"message": "Successfully logged out"})
