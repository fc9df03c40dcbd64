"""Authentication at /mcp: Django's request handling identifies the user and checks permissions."""

from __future__ import annotations

from dataclasses import dataclass

from django.http import HttpResponseBase
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts import credentials
from accounts.credentials import Credential
from accounts.models import User
from comfyserve.api import addresses, json_limits
from workflows.api.views import user_of

CALLER = "comfyserve.mcp_caller"  # key in the scope of an authenticated request
MAX_ELEMENTS = 10_000  # per message: a tool's arguments are the few inputs of an app


@dataclass(frozen=True)
class Caller:
    """The user, the URL of this service as they see it, and what the request was authenticated with."""

    user: User
    base: str
    credential: Credential


class EntranceView(APIView):
    schema = None  # described by the protocol itself
    parser_classes: list[type[BaseParser]] = []  # the protocol reads the body

    def post(self, request: Request) -> Response:
        # The protocol's own parser works in the event loop and has no limits.
        json_limits.check(request._request.body, elements=MAX_ELEMENTS)
        response = Response({})
        user = user_of(request)
        credential = credentials.of_request(request._request, user_id=user.pk)
        response.mcp_caller = Caller(user, addresses.base_of(request._request), credential)  # type: ignore[attr-defined]
        return response


def caller_of(response: HttpResponseBase) -> Caller | None:
    """None if the request was rejected; the response says why."""
    return getattr(response, "mcp_caller", None)
