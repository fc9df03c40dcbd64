"""Transfers to and from users; no thread is held by a slow client.

Uploads, and downloads that may have to wait for a conversion, are handled on the ASGI half. Other downloads
have synchronous twins, for request threads (`comfyserve.api.gate.threads`): Django's asynchronous handling of
a request costs several times as much.
"""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse

from accounts import authentication
from comfyserve.api.errors import NotFound, Unauthorized, ValidationFailed
from comfyserve.api.validation import checked
from comfyserve.db import connections

from . import (
    backend,
    conversion_pool,
    converted,
    links,
    names,
    queries,
    ranges,
    storing,
    thumbnails,
    types,
    uploads,
)
from .conversion import ConversionOptions
from .errors import BytesMissing
from .incoming import Incoming
from .models import ConvertedFile, File
from .serializers import BytesQuery, DownloadQuery
from .threads import in_request_thread, in_thread, submit

SMALLEST, LARGEST = 64 * 1024, 256 * 1024  # bytes per read: more for clients that read fast
WHOLE = 256 * 1024  # bytes read at once and sent as one response, in a request thread
QUICK = 0.02  # seconds for a client to accept a chunk
# What an HTML or SVG file may do if a browser displays it regardless: nothing.
SANDBOX = "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; sandbox"
FOREVER = "private, max-age=86400, immutable"  # an id always has the same bytes
REVALIDATED = "private, no-cache"


@dataclass(frozen=True)
class Requested:
    """A file and how it is to be served, to a client whose permission has been checked."""

    file: File
    wanted: ConversionOptions = field(default_factory=ConversionOptions)
    attachment: bool = False
    caching: str = REVALIDATED


@dataclass(frozen=True)
class Content:
    """One stored object, as it is served."""

    key: str
    size: int
    etag: str
    filename: str
    content_type: str
    attachment: bool
    caching: str


# -- uploads -----------------------------------------------------------------------------------------
async def upload(request: HttpRequest) -> File:
    """The file, stored. Raises what `uploads.receive` and `storing.accept` raise."""
    user = await in_request_thread(authentication.require, request)
    incoming = Incoming()
    try:
        form = await uploads.receive(request, incoming)
        return await in_request_thread(
            storing.accept,
            incoming,
            user=user,
            filename=form.filename or "",
            description=form.fields.get("description", ""),
        )
    finally:
        await in_thread(incoming.close)


# -- downloads ---------------------------------------------------------------------------------------
async def download(request: HttpRequest, file_id: str) -> HttpResponseBase:
    return await serve_file(request, await in_request_thread(_find, request, file_id))


async def serve_file(request: HttpRequest, requested: Requested) -> HttpResponseBase:
    """The file in the format wanted, converted first if need be. Raises what `conversion_pool` raises."""
    file, wanted = requested.file, requested.wanted
    if not wanted or converted.is_as_wanted(file, wanted):
        return await serve(request, _original(requested))
    return await serve(request, _converted(requested, await conversion_pool.converted(file, wanted)))


def download_in_thread(request: HttpRequest, file_id: str) -> HttpResponseBase:
    """The same in a request thread, for queries that ask for no conversion (`routing.is_download`)."""
    return serve_in_thread(request, _original(_find(request, file_id)))


async def thumbnail(request: HttpRequest, file_id: str) -> HttpResponseBase:
    return await serve(request, await in_request_thread(_find_thumbnail, request, file_id))


def thumbnail_in_thread(request: HttpRequest, file_id: str) -> HttpResponseBase:
    return serve_in_thread(request, _find_thumbnail(request, file_id))


def _find(request: HttpRequest, file_id: str) -> Requested:
    if request.GET.keys() == links.PARAMETERS:  # the signature covers them: there is nothing else to check
        return Requested(_permitted(request, file_id, subject=file_id), caching=FOREVER)
    try:
        given = checked(DownloadQuery, request.GET)
    except ValidationFailed:
        _permitted(request, file_id, subject=file_id)  # before any other error
        raise
    wanted = ConversionOptions.of(given)
    file = _permitted(request, file_id, subject=file_id, wanted=wanted)
    return Requested(file, wanted, attachment=given["download"], caching=_caching(request))


def _find_thumbnail(request: HttpRequest, file_id: str) -> Content:
    file = _permitted(request, file_id, subject=f"{file_id}/thumbnail")
    checked(BytesQuery, request.GET)
    return _thumbnail_of(file, caching=_caching(request))


def _original(requested: Requested) -> Content:
    file = requested.file
    return Content(
        key=file.key,
        size=file.size,
        etag=f'"{file.sha256[:32]}"',
        filename=file.filename,
        content_type=_with_charset(file.content_type),
        attachment=requested.attachment or not types.is_shown(file.content_type),
        caching=requested.caching,
    )


def _converted(requested: Requested, made: ConvertedFile) -> Content:
    return Content(
        key=made.key,
        size=made.size,
        etag=f'"{made.sha256[:32]}"',
        filename=converted.filename_of(requested.file, made.content_type),
        content_type=made.content_type,
        attachment=requested.attachment or not types.is_shown(made.content_type),
        caching=requested.caching,
    )


def _thumbnail_of(file: File, *, caching: str) -> Content:
    key = thumbnails.key_of(file)
    if key is None:
        raise NotFound("This file has no thumbnail")
    return Content(
        key=key,
        size=backend.size_of(key),
        etag=f'"{file.sha256[:32]}-thumbnail"',
        filename="thumbnail.webp",
        content_type="image/webp",
        attachment=False,
        caching=caching,
    )


def _permitted(
    request: HttpRequest, file_id: str, *, subject: str, wanted: ConversionOptions | None = None
) -> File:
    """To the bearer of a signed link, else to the file's user. A link to the file is one to whatever is
    made of it; a link to what was made is only to that.
    """
    signature = request.GET.get("signature")
    if signature is None:
        return queries.file_of(file_id=file_id, user=authentication.require(request))
    subjects = [subject, links.converted_subject(file_id, wanted)] if wanted else [subject]
    expires = request.GET.get("expires", "")
    if not any(links.is_signed(each, expires=expires, signature=signature) for each in subjects):
        raise Unauthorized("The link has expired or was altered; request a new one")
    file, owner_is_active = queries.file_with_owner(file_id)
    if not owner_is_active:  # links are valid only while their account is active
        raise Unauthorized("The link is no longer valid")
    return file


def _with_charset(content_type: str) -> str:
    return f"{content_type}; charset=utf-8" if content_type.startswith("text/") else content_type


def _caching(request: HttpRequest) -> str:
    return FOREVER if "signature" in request.GET else REVALIDATED


def whole(file: File, *, thumbnail: bool) -> HttpResponseBase:
    """All of it, for a console page, which has checked permission. Uses a thread of the WSGI half."""
    if thumbnail:
        content = _thumbnail_of(file, caching=FOREVER)
    else:
        content = _original(Requested(file, caching=FOREVER))
    reader = backend.read(content.key)
    response = StreamingHttpResponse(_pieces_at_once(reader, content, content.size))
    response["Content-Length"] = str(content.size)
    return _with_headers(response, content)


async def serve(request: HttpRequest, content: Content) -> HttpResponseBase:
    requested = _requested_range(request, content)
    if not requested.bytes_wanted:
        return _response(HttpResponse(), requested, content)
    reader = await in_thread(backend.read, content.key, requested.start, requested.length)
    pieces = _pieces if hasattr(request, "scope") else _pieces_at_once
    return _response(StreamingHttpResponse(pieces(reader, content, requested.length)), requested, content)


def serve_in_thread(request: HttpRequest, content: Content) -> HttpResponseBase:
    """The same in a request thread. A small content is read at once."""
    requested = _requested_range(request, content)
    if not requested.bytes_wanted:
        return _response(HttpResponse(), requested, content)
    connections.release()  # the storage may be slow
    reader = backend.read(content.key, requested.start, requested.length)
    pieces = _pieces_at_once(reader, content, requested.length)
    if requested.length > WHOLE:
        return _response(StreamingHttpResponse(pieces), requested, content)
    return _response(HttpResponse(b"".join(pieces)), requested, content)


@dataclass(frozen=True)
class _RequestedRange:
    """What a request asks for of a content: the whole, a part, or no bytes."""

    status: int
    start: int
    length: int
    content_range: str | None
    bytes_wanted: bool


def _requested_range(request: HttpRequest, content: Content) -> _RequestedRange:
    """Raises RangeNotSatisfiable."""
    if ranges.is_known(request.headers.get("If-None-Match"), etag=content.etag):
        return _RequestedRange(304, 0, 0, None, bytes_wanted=False)
    part = ranges.part_of(
        request.headers.get("Range"),
        size=content.size,
        if_range=request.headers.get("If-Range"),
        etag=content.etag,
    )
    wanted = request.method != "HEAD"
    if part is None:
        return _RequestedRange(200, 0, content.size, None, bytes_wanted=wanted)
    return _RequestedRange(206, part.start, part.length, part.content_range, bytes_wanted=wanted)


def _response(response: HttpResponseBase, requested: _RequestedRange, content: Content) -> HttpResponseBase:
    response.status_code = requested.status
    if requested.status != 304:
        response["Content-Length"] = str(requested.length)
    if requested.content_range is not None:
        response["Content-Range"] = requested.content_range
    return _with_headers(response, content)


def _with_headers(response: HttpResponseBase, content: Content) -> HttpResponseBase:
    response["ETag"] = content.etag
    response["Cache-Control"] = content.caching
    response["Accept-Ranges"] = "bytes"
    response["Content-Type"] = content.content_type
    response["Content-Disposition"] = names.disposition(content.filename, attachment=content.attachment)
    response["X-Content-Type-Options"] = "nosniff"
    response["Content-Security-Policy"] = SANDBOX
    response["Cross-Origin-Resource-Policy"] = "cross-origin"
    return response


async def _pieces(reader: backend.Reader, content: Content, length: int) -> AsyncIterator[bytes]:
    size = SMALLEST
    reader = _Guarded(reader)
    try:
        while length > 0:
            piece = await in_thread(_read, reader, content.key, min(size, length))
            length -= len(piece)
            began = time.monotonic()
            yield piece
            size = min(size * 2, LARGEST) if time.monotonic() - began < QUICK else SMALLEST
    finally:
        submit(reader.close)


class _Guarded:
    """Closed only when no thread reads from it: the client may disconnect at any time."""

    def __init__(self, reader: backend.Reader) -> None:
        self._reader = reader
        self._busy = threading.Lock()
        self._closed = False

    def read(self, size: int, /) -> bytes:
        with self._busy:
            return b"" if self._closed else self._reader.read(size)

    def close(self) -> None:
        with self._busy:
            self._closed = True
            self._reader.close()


def _pieces_at_once(reader: backend.Reader, content: Content, length: int) -> Iterator[bytes]:
    size = SMALLEST
    try:
        while length > 0:
            piece = _read(reader, content.key, min(size, length))
            length -= len(piece)
            began = time.monotonic()
            yield piece
            size = min(size * 2, LARGEST) if time.monotonic() - began < QUICK else SMALLEST
    finally:
        reader.close()


def _read(reader: backend.Reader, key: str, size: int) -> bytes:
    with backend.reading(key):
        piece = reader.read(size)
    if not piece:
        raise BytesMissing("The file is truncated in the storage")
    return piece
