"""Streaming uploads: the form is parsed incrementally, the file goes to disk, nothing is buffered whole."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import multipart
from django.conf import settings
from django.http import HttpRequest
from rest_framework.exceptions import UnsupportedMediaType

from comfyserve.api import bodies
from comfyserve.api.errors import Detail, PayloadTooLarge, ValidationFailed
from comfyserve.api.validation import unknown

from . import names
from .incoming import Incoming
from .threads import in_thread

FLUSH = 128 * 1024  # bytes buffered before a thread writes them; each slow client holds up to this many
AHEAD = 1024 * 1024  # bytes given to the thread before it is waited for
OVERHEAD = 64  # bytes of memory that a piece takes besides its own
LONGEST_HEADER = 32 * 1024  # per part; a name may be long, it is truncated later
PARTS = 20
EXTENDED = re.compile(r";\s*filename\*\s*=\s*([^;]+)", re.IGNORECASE)
FIELDS = {"description": 1000, "sha256": 64}  # characters; others are refused
ALSO_CALLED = {"image": "file", "upload": "file", "files": "file", "file[]": "file", "checksum": "sha256"}


@dataclass
class Form:
    """The parsed form. The file is in `incoming`."""

    incoming: Incoming
    filename: str | None = None
    fields: dict[str, str] = field(default_factory=dict)
    values: dict[str, list[str]] = field(default_factory=dict)  # all of a field that is sent repeatedly
    unknown: list[str] = field(default_factory=list)
    allowed: Mapping[str, int] = field(default_factory=lambda: FIELDS)
    file_field: str = "file"


async def receive(
    request: HttpRequest,
    incoming: Incoming,
    *,
    allowed: Mapping[str, int] = FIELDS,
    file_field: str = "file",
) -> Form:
    """Read the whole body of the request. `file_field` has the file; `allowed` are the fields beside it, and
    how many characters each may have.

    Raises ValidationFailed, PayloadTooLarge as soon as the limit is exceeded, UnsupportedMediaType,
    ClientGone, StorageUnavailable if the local disk is full.
    """
    form = Form(incoming, allowed=allowed, file_field=file_field)
    reading = _Reading(form)
    with (
        _translated_errors(),
        multipart.PushMultipartParser(
            _boundary(request), max_header_size=LONGEST_HEADER, max_segment_count=PARTS
        ) as parser,
    ):
        async for piece in _pieces(request):
            for event in parser.parse(piece):
                reading.take(event)
            if reading.buffered >= FLUSH:
                await reading.flush()
            if parser.closed:
                break
    await reading.finish()
    _check(form)
    return form


def _boundary(request: HttpRequest) -> str:
    content_type, options = multipart.parse_options_header(request.headers.get("Content-Type", ""))
    if content_type != "multipart/form-data":
        raise UnsupportedMediaType(content_type or "(none)", "Send the file as multipart/form-data")
    boundary = options.get("boundary", "")
    if not boundary or len(boundary) > 200:
        raise ValidationFailed([Detail("PARSE_ERROR", "The Content-Type header has no usable boundary")])
    return str(boundary)


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except multipart.MultipartError as exc:
        # Some also have the underlying exception among their arguments.
        reason = exc.args[0] if exc.args else "it is not multipart/form-data"
        hint = "; file names are written in UTF-8" if "decode" in str(reason) else ""
        message = f"The form cannot be read: {reason}{hint}"
        raise ValidationFailed([Detail("PARSE_ERROR", message)]) from exc


async def _pieces(request: HttpRequest) -> AsyncIterator[bytes]:
    scope: dict[str, Any] = getattr(request, "scope", {})
    if bodies.STREAM in scope:
        async for piece in scope[bodies.STREAM].pieces():
            yield piece
        return
    # Not behind our ASGI server: Django's own test client, or another WSGI server.
    while piece := request.read(FLUSH):
        yield piece
        await asyncio.sleep(0)


class _Reading:
    """Handles the parser's events: a segment, its bytes, None at its end."""

    def __init__(self, form: Form) -> None:
        self.buffered = 0  # bytes
        self._buffer: list[bytes] = []  # pieces of the file as they arrived: copying them takes longer
        self._queue: deque[bytes] = deque()  # for the thread
        self._given = 0  # bytes, to the thread that works now
        self._form = form
        self._name = ""
        self._text = bytearray()
        self._size = 0
        self._others = 0  # bytes besides the file
        self._writing: asyncio.Future[None] | None = None

    def take(self, event: Any) -> None:
        if isinstance(event, multipart.MultipartSegment):
            self._begin(event)
        elif event is None:
            self._end()
        elif self._name == self._form.file_field:
            self._size += len(event)
            if self._size > settings.MAX_UPLOAD_BYTES:
                raise _too_large(f"The file has more than {settings.MAX_UPLOAD_BYTES} bytes")
            self._buffer.append(event)
            self.buffered += len(event) + OVERHEAD
        else:
            self._others += len(event)
            if self._others > bodies.FORM:
                raise _too_large(f"The form has more than {bodies.FORM} bytes besides the file")
            if self._name in self._form.allowed:
                self._text += event

    async def flush(self) -> None:
        """Give the buffer to the thread that writes. It goes on as long as it is given more: waking it for
        each piece takes longer than writing.
        """
        if self._writing is not None and (self._writing.done() or self._given >= AHEAD):
            await self._written()
        self._queue.append(b"".join(self._buffer))
        self._given += self.buffered
        self._buffer, self.buffered = [], 0
        if self._writing is None:
            self._writing = asyncio.ensure_future(in_thread(self._write_queue))

    async def finish(self) -> None:
        """Write all that is left."""
        await self._written()
        await self.flush()
        await self._written()

    def _write_queue(self) -> None:
        while self._queue:
            self._form.incoming.write(self._queue.popleft())

    async def _written(self) -> None:
        """Wait for the thread; raises what it raised. It may have stopped just before it was given more."""
        if self._writing is not None:
            writing, self._writing, self._given = self._writing, None, 0
            await writing

    def _begin(self, segment: multipart.MultipartSegment) -> None:
        self._name, self._text = segment.name or "", bytearray()
        if self._name != self._form.file_field:
            if self._name not in self._form.allowed:
                self._form.unknown.append(self._name)
            return
        if self._form.filename is not None:
            raise ValidationFailed.of("file", "Send one file at a time", "DUPLICATE_FIELD")
        filename = _filename_of(segment)
        if filename is None:
            raise ValidationFailed.of("file", "Field 'file' must be a file, with a name", "INVALID_TYPE")
        self._form.filename = filename

    def _end(self) -> None:
        if self._name in self._form.allowed:
            text = self._text.decode("utf-8", "replace")
            self._form.fields[self._name] = text
            self._form.values.setdefault(self._name, []).append(text)


def _filename_of(segment: multipart.MultipartSegment) -> str | None:
    header = next((value for name, value in segment.headerlist if name == "Content-Disposition"), "")
    extended = EXTENDED.search(header)
    return names.of_part(segment.filename, extended[1].strip() if extended else None)


def _too_large(message: str) -> PayloadTooLarge:
    return PayloadTooLarge(message, headers={"Connection": "close"})


def _check(form: Form) -> None:
    mistakes = unknown(form.unknown, [form.file_field, *form.allowed], also_called=ALSO_CALLED)
    if form.filename is None:
        mistakes.insert(
            0, Detail("REQUIRED_FIELD", f"Field '{form.file_field}' is required", form.file_field)
        )
    mistakes += [
        Detail("TOO_LONG", f"Field '{name}' has at most {form.allowed[name]} characters", name)
        for name, value in form.fields.items()
        if len(value) > form.allowed[name]
    ]
    if "\x00" in form.fields.get("description", ""):
        mistakes.append(Detail("INVALID_VALUE", "NUL characters are not allowed", "description"))
    expected = form.fields.get("sha256", "").lower()
    if expected and not mistakes and expected != form.incoming.sha256:
        mistakes.append(
            Detail(
                "CHECKSUM_MISMATCH", f"The received bytes have the SHA-256 {form.incoming.sha256}", "sha256"
            )
        )
    if mistakes:
        raise ValidationFailed(mistakes)
