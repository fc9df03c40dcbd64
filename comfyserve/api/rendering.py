"""JSON responses with embedded JSON text that is sent exactly as it was received, and its negotiation."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any
from uuid import uuid4

from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.utils.encoders import JSONEncoder


class JSONText:
    """JSON text embedded in a response unchanged: the order of its keys and its numbers as they are."""

    def __init__(self, text: str | bytes) -> None:
        self.encoded = text.encode() if isinstance(text, str) else text
        self.token = uuid4().hex  # placeholder until everything is rendered


class _Encoder(JSONEncoder):
    def __init__(self, found: list[JSONText], **options: Any) -> None:
        super().__init__(**options)
        self._found = found

    def default(self, obj: Any) -> Any:
        if isinstance(obj, JSONText):
            self._found.append(obj)
            return obj.token
        return super().default(obj)


class Renderer(JSONRenderer):
    """REST framework's renderer, extended to `JSONText`."""

    def render(
        self, data: Any, accepted_media_type: str | None = None, renderer_context: Any = None
    ) -> bytes:
        found: list[JSONText] = []
        self.encoder_class = partial(_Encoder, found)  # type: ignore[assignment,misc]
        rest = bytes(super().render(data, accepted_media_type, renderer_context))
        pieces: list[bytes] = []
        for part in found:  # in the order of the text
            before, _, rest = rest.partition(f'"{part.token}"'.encode())
            pieces += before, part.encoded
        return b"".join((*pieces, rest))


class Negotiation(DefaultContentNegotiation):
    """REST framework's, which is spared the clients that accept anything: most of them."""

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> Any:
        if format_suffix is None and request.META.get("HTTP_ACCEPT", "*/*") == "*/*":
            first = next(iter(renderers))
            return first, first.media_type
        return super().select_renderer(request, renderers, format_suffix)


class AnyAccept(DefaultContentNegotiation):
    """For views that choose the type themselves: errors are JSON, whatever the client accepts."""

    def select_renderer(
        self,
        request: Request,  # noqa: ARG002
        renderers: Iterable[BaseRenderer],
        format_suffix: str | None = None,  # noqa: ARG002
    ) -> Any:
        first = next(iter(renderers))
        return first, first.media_type


def rendered(data: Any) -> bytes:
    return Renderer().render(data)
