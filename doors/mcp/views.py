"""The way into /mcp: Django's handling of the request decides who asks and whether they may."""

from __future__ import annotations

from dataclasses import dataclass

from django.http import HttpResponseBase
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.models import User
from comfyserve.api import addresses, json_limits
from workflows.api.views import user_of

MAX_ELEMENTS = 10_000  # of a message: the arguments of a tool are the few inputs of an app


@dataclass(frozen=True)
class Caller:
    """Who asks, and the address of this service as they see it."""

    user: User
    base: str


class EntranceView(APIView):
    schema = None  # described by the protocol itself
    parser_classes: list[type[BaseParser]] = []  # the protocol reads the body

    def post(self, request: Request) -> Response:
        # The protocol's own parser works in the event loop, and knows no limits.
        json_limits.check(request._request.body, elements=MAX_ELEMENTS)
        response = Response({})
        response.mcp_caller = Caller(user_of(request), addresses.base_of(request._request))  # type: ignore[attr-defined]
        return response


def caller_of(response: HttpResponseBase) -> Caller | None:
    """None where the request was refused; the response says why."""
    return getattr(response, "mcp_caller", None)
