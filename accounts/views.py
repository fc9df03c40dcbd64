"""The endpoints under /auth/."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import authenticate
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts import api_keys, examples, passwords, registration, sessions
from accounts import serializers as shapes
from accounts.authentication import AuthenticatedRequest
from accounts.models import ApiKey, Session, User
from comfyserve.api.clients import client_address
from comfyserve.api.errors import Forbidden, Unauthorized
from comfyserve.api.schema import describe
from comfyserve.api.validation import checked


class PublicView(APIView):
    """No login required; a stale token in the header is ignored here."""

    authentication_classes = ()
    permission_classes = (AllowAny,)


class SessionView(APIView):
    """Requires a login, not an API key: a leaked key must not create more keys or take over the account."""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if not isinstance(request.auth, Session):
            raise Forbidden("This needs a login, not an API key")


class Register(PublicView):
    @describe(
        shapes.RegistrationSerializer,
        {201: shapes.UserSerializer},
        errors=(403,),
        example=examples.ACCOUNT,
        answer=examples.USER,
    )
    def post(self, request: Request) -> Response:
        """Register User: create a new account, where registration is open."""
        given = checked(shapes.RegistrationSerializer, request.data)
        user = registration.register(**given, address=client_address(request._request))
        return Response(shapes.UserSerializer(user).data, status=201)


class Login(PublicView):
    @describe(
        shapes.LoginSerializer,
        shapes.TokenPairSerializer,
        errors=(401,),
        example=examples.LOGIN,
        answer=examples.PAIR,
    )
    def post(self, request: Request) -> Response:
        """Login: exchange e-mail address and password for an access and a refresh token."""
        given = checked(shapes.LoginSerializer, request.data)
        django_request = request._request
        user = authenticate(django_request, username=given["email"], password=given["password"])
        if not isinstance(user, User):
            raise Unauthorized("Wrong e-mail address or password")
        agent = request.headers.get("User-Agent", "")
        pair = sessions.start(user=user, address=client_address(django_request), user_agent=agent)
        return Response(shapes.TokenPairSerializer(pair).data)


class Refresh(PublicView):
    @describe(
        shapes.RefreshSerializer,
        shapes.TokenPairSerializer,
        errors=(401,),
        example=examples.REFRESH,
        answer=examples.PAIR,
    )
    def post(self, request: Request) -> Response:
        """Refresh Token: a new pair of tokens. Used again, a token ends its session, except within ten
        seconds of its first use, when it gets the same answer.
        """
        pair = sessions.rotate(**checked(shapes.RefreshSerializer, request.data))
        return Response(shapes.TokenPairSerializer(pair).data)


class Me(APIView):
    @describe(None, shapes.UserSerializer, answer=examples.USER)
    def get(self, request: AuthenticatedRequest) -> Response:
        """Get Current User."""
        return Response(shapes.UserSerializer(request.user).data)


class Logout(APIView):
    @describe(
        shapes.LogoutSerializer,
        shapes.MessageSerializer,
        errors=(403,),
        example={"everywhere": True},
        answer=examples.LOGGED_OUT,
    )
    def post(self, request: AuthenticatedRequest) -> Response:
        """Logout: end this session, its access and refresh tokens at once; with `everywhere` all of them."""
        if checked(shapes.LogoutSerializer, request.data)["everywhere"]:
            sessions.end_all(user=request.user, reason=Session.End.EVERYWHERE)
        elif isinstance(request.auth, Session):
            sessions.end(session=request.auth, reason=Session.End.LOGOUT)
        else:
            raise Forbidden("An API key has no session to log out of; delete the key instead")
        return Response({"message": "Successfully logged out"})


class Password(SessionView):
    @describe(shapes.PasswordChangeSerializer, shapes.MessageSerializer, errors=(403,))
    def post(self, request: AuthenticatedRequest) -> Response:
        """Change Password: ends all of the user's sessions, this one too."""
        given = checked(shapes.PasswordChangeSerializer, request.data)
        passwords.change(
            user=request.user,
            current=given["current_password"],
            new=given["new_password"],
            address=client_address(request._request),
        )
        return Response({"message": "Password changed; log in again"})


class PasswordReset(PublicView):
    @describe(shapes.ResetSerializer, shapes.MessageSerializer, errors=(404,))
    def post(self, request: Request) -> Response:
        """Ask for Password Reset: by e-mail, where the operator has set it up."""
        given = checked(shapes.ResetSerializer, request.data)
        passwords.ask_reset(email=given["email"], address=client_address(request._request))
        return Response({"message": "If there is an account with this address, an e-mail is on its way"})


class PasswordResetConfirm(PublicView):
    @describe(shapes.ResetConfirmSerializer, shapes.MessageSerializer)
    def post(self, request: Request) -> Response:
        """Reset Password: with the token of the e-mail. Ends all of the user's sessions."""
        given = checked(shapes.ResetConfirmSerializer, request.data)
        passwords.reset(token=given["token"], new=given["new_password"])
        return Response({"message": "Password changed; log in again"})


class Keys(SessionView):
    @describe(None, shapes.ApiKeySerializer(many=True), errors=(403,))
    def get(self, request: AuthenticatedRequest) -> Response:
        """List API Keys."""
        keys = ApiKey.objects.filter(user=request.user).order_by("id")
        return Response(shapes.ApiKeySerializer(keys, many=True).data)

    @describe(
        shapes.NewApiKeySerializer,
        {201: shapes.MadeApiKeySerializer},
        errors=(403, 409),
        example=examples.NEW_KEY,
        answer=examples.MADE_KEY,
    )
    def post(self, request: AuthenticatedRequest) -> Response:
        """Create API Key: for a server. The answer shows it; nobody can read it again."""
        key, secret = api_keys.create(user=request.user, **checked(shapes.NewApiKeySerializer, request.data))
        return Response({**shapes.ApiKeySerializer(key).data, "key": secret}, status=201)


class Key(SessionView):
    @describe(None, {204: None}, errors=(403,))
    def delete(self, request: AuthenticatedRequest, key_id: int) -> Response:
        """Delete API Key: it stops working at once."""
        api_keys.delete(user=request.user, key_id=key_id)
        return Response(status=204)
