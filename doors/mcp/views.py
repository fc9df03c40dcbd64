"""Authentication at /mcp: Django's request handling identifies the user and checks permissions."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

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
_with_files = asyncio.Semaphore(2)  # responses with files in them that are made at the same time
MAX_ELEMENTS = 10_000  # per message: a tool's arguments are the few inputs of an app


class Turn:
    """A request's turn to make a response with files in it, which takes several times their size until it is
    complete."""

    def __init__(self) -> None:
        self._is_taken = False

    async def begin(self) -> None:
        await _with_files.acquire()
        self._is_taken = True

    def end(self) -> None:
        if self._is_taken:
            _with_files.release()


@dataclass(frozen=True)
class Caller:
    """The user, the URL of this service as they see it, and what the request was authenticated with."""

    user: User
    base: str
    credential: Credential
    turn: Turn = field(default_factory=Turn)


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
