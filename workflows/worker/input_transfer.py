"""Transfers a workflow's input files to the worker's ComfyUI before the prompt is posted.

Files are named by the hash of their content, so the same content is sent once for as long as that ComfyUI has
it. No other copy is kept of files fetched from a URL.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

from django.conf import settings

from comfyserve.db import connections
from comfyserve.outbound import client
from comfyui import NotFound, Refused, Unreachable
from comfyui.bridge import Bridge, NoBridge
from comfyui.types import OutputFile
from files import decoding, storing, types
from files.errors import BytesMissing, StorageUnavailable
from files.incoming import Incoming
from files.models import File
from workflows.graph import (
    input_files,
    media_kinds,
    nested_inputs,
    node_classes,
    node_info,
    parsing,
    refusals,
)
from workflows.graph.comfyui_errors import Fault
from workflows.models import FailureCause
from workflows.queue.claims import Claim

from .backend import Backend

logger = logging.getLogger(__name__)

MAX_TRIES = 3  # tries for a URL that does not respond
_LARGER_THAN_PROXY = "the proxy in front of its ComfyUI does not accept a file of this size (it answered 413)"
FOLDER = "comfyserve"  # under ComfyUI's input folder
CHUNK_BYTES = 256 * 1024  # bytes per read
Alive = Callable[[], Any]
Accepted = tuple[str, ...]


class InputRefused(Exception):
    """The workflow's fault: the file was deleted or cannot be used."""

    def __init__(self, message: str, *, node_id: str, name: str, claim: Claim) -> None:
        title = refusals.named(claim.prompt, node_id)
        super().__init__(message)
        self.fault = Fault(
            f"Input '{name}' of {title}: {message}",
            {
                "type": "input_unavailable",
                "message": message,
                "node_id": node_id,
                "input": name,
                "node_errors": {},
            },
            cause=FailureCause.INPUT,
        )


class TemporaryFailure(Exception):
    """A system fault: the storage, ComfyUI or another server does not respond; a later try may succeed.

    `interrupted`: while a file was being sent to ComfyUI.
    """

    def __init__(self, message: str, *, interrupted: bool = False) -> None:
        super().__init__(message)
        self.interrupted = interrupted


def prepare(claim: Claim, *, backend: Backend, alive: Alive) -> parsing.Prompt:
    """Return the claim's prompt with all its files in place. Raises InputRefused and TemporaryFailure.

    `alive` is called during transfers; an exception it raises aborts them.
    """
    names: dict[tuple[str, str], str] = {}
    known: dict[tuple[str, bool], str] = {}
    for node_id, name, value in input_files.marked(claim.prompt):
        in_eight_bits = claim.prompt[node_id]["class_type"] in node_classes.READ_EIGHT_BITS
        if (value, in_eight_bits) not in known:
            with _translated_errors(claim, node_id, name, backend):
                wanted = _wanted(claim, node_id, name, backend)
                placing = _Placing(claim, backend, alive, wanted, in_eight_bits)
                known[value, in_eight_bits] = f"{FOLDER}/{_place(placing, value)}"
        names[node_id, name] = known[value, in_eight_bits]
    return input_files.filled(claim.prompt, names) if names else claim.prompt


@contextmanager
def _translated_errors(claim: Claim, node_id: str, name: str, backend: Backend) -> Iterator[None]:
    try:
        yield
    except _Unusable as exc:
        raise InputRefused(str(exc), node_id=node_id, name=name, claim=claim) from exc
    except decoding.Undecodable as exc:
        raise InputRefused(_uncapitalized(exc), node_id=node_id, name=name, claim=claim) from exc
    except BytesMissing as exc:
        raise InputRefused("the file was deleted", node_id=node_id, name=name, claim=claim) from exc
    except (client.Unreachable, client.TookTooLong) as exc:
        if claim.tries + 1 >= MAX_TRIES:
            raise InputRefused(_uncapitalized(exc), node_id=node_id, name=name, claim=claim) from exc
        raise TemporaryFailure(f"an input could not be fetched: {_uncapitalized(exc)}") from exc
    except client.OutboundError as exc:
        raise InputRefused(_uncapitalized(exc), node_id=node_id, name=name, claim=claim) from exc
    except Refused as exc:
        raise InputRefused(_refused(exc), node_id=node_id, name=name, claim=claim) from exc
    except StorageUnavailable as exc:
        raise TemporaryFailure("the file storage does not respond") from exc
    except (Unreachable, NoBridge) as exc:
        logger.warning("ComfyUI rejected an input of %s: %s", claim.execution_id, exc)
        if _exceeds_a_proxys_limit(exc, claim, backend):
            raise InputRefused(_LARGER_THAN_PROXY, node_id=node_id, name=name, claim=claim) from exc
        interrupted = isinstance(exc, Unreachable) and exc.sent and exc.status is None
        raise TemporaryFailure("ComfyUI rejected an input", interrupted=interrupted) from exc


def _exceeds_a_proxys_limit(exc: Exception, claim: Claim, backend: Backend) -> bool:
    """Whether its size is rejected repeatedly, while other requests get through."""
    too_large = isinstance(exc, Unreachable) and exc.too_large
    return too_large and claim.tries + 1 >= MAX_TRIES and backend.client.ping()


def _refused(refused: Refused) -> str:
    if refused.type == "too_large":
        return (
            "its ComfyUI rejects a file of this size; its limit is set by --max-upload-size, "
            "100 MiB unless it says otherwise"
        )
    return "ComfyUI rejects it"


class _Unusable(Exception):
    """The file exists but cannot be used by a workflow."""


def _uncapitalized(exc: Exception) -> str:
    text = str(exc)
    return text[:1].lower() + text[1:]


def _wanted(claim: Claim, node_id: str, name: str, backend: Backend) -> Accepted:
    """The content type prefixes that this input accepts."""
    with connections.step():
        classes = node_info.of(backend.object_info_digest)
    return media_kinds.wanted(claim.prompt[node_id]["class_type"], name, [classes])


@dataclass(frozen=True)
class _Placing:
    """Parameters of placing one file. `in_eight_bits`: its node clips channels of 16 bits to white."""

    claim: Claim
    backend: Backend
    alive: Alive
    wanted: Accepted
    in_eight_bits: bool


def _place(placing: _Placing, value: str) -> str:
    """Place one file or URL; return its name in ComfyUI, below FOLDER."""
    placing.alive()
    if input_files.FILE_ID.fullmatch(value):
        return _place_file(placing, value)
    return _place_address(placing, value)


def _place_file(placing: _Placing, file_id: str) -> str:
    def query() -> File | None:
        placing.alive()
        # The pin protects it from expiry. Access was checked before it was pinned for this execution.
        return File.objects.filter(id=file_id, pins__holder=placing.claim.execution_id).first()

    file = connections.retry_until_available(query)
    if file is None:
        raise _Unusable("the file was deleted")
    name = f"{file.sha256}{types.extension_of(file.content_type, filename=file.filename)}"
    if not types.is_converted(file.content_type) and not _may_be_deep(placing, file.content_type, file):
        if not _has_complete(placing, name, file.size):
            with storing.opened(file) as reader:
                _send(placing.backend, name, _ReportingStream(reader, placing.alive))
        return name
    with storing.opened(file) as reader, Incoming() as incoming:
        while chunk := _ReportingStream(reader, placing.alive).read(CHUNK_BYTES):
            incoming.write(chunk)
        return _place_content(placing, incoming, file.content_type, name)


def _may_be_deep(placing: _Placing, content_type: str, content: File | Incoming) -> bool:
    """Whether its node would clip it. A PNG's header says so; a TIFF has to be opened."""
    if not placing.in_eight_bits or content_type != "image/png":
        return placing.in_eight_bits and content_type == "image/tiff"
    if isinstance(content, Incoming):
        return types.is_deep_png(content.head)
    with storing.opened(content) as reader:
        return types.is_deep_png(reader.read(types.PNG_HEADER))


def _place_content(placing: _Placing, incoming: Incoming, content_type: str, name: str) -> str:
    """Place a copied or fetched file: unchanged, or as a PNG if its node cannot read it unchanged."""
    if types.is_converted(content_type):
        return _place_converted(placing, incoming, f"{incoming.sha256}.png", decoding.as_png) or _unreadable()
    if _may_be_deep(placing, content_type, incoming):
        # The bridge requires names of this form.
        eight_bits = f"{hashlib.sha256(f'{incoming.sha256} in 8 bits'.encode()).hexdigest()}.png"
        if placed := _place_converted(placing, incoming, eight_bits, decoding.deep_as_png):
            return placed
    if not _has_complete(placing, name, incoming.size):
        with incoming.path.open("rb") as stream:
            _send(placing.backend, name, _ReportingStream(stream, placing.alive))
    return name


def _unreadable() -> NoReturn:
    raise _Unusable("the picture cannot be read, or is too large to be converted")


def _place_converted(
    placing: _Placing, incoming: Incoming, name: str, convert: Callable[[Path, Path], bool]
) -> str | None:
    """Place it as a PNG with this name; None if it cannot be converted or needs no conversion."""
    placing.backend.placed.need(placing.claim.token, name)
    if _size_in_comfyui(placing.backend, name):
        return name
    target = incoming.path.with_name(f"{incoming.path.name}.png")
    try:
        if not convert(incoming.path, target):
            return None
        with target.open("rb") as stream:
            _send(placing.backend, name, _ReportingStream(stream, placing.alive))
    finally:
        target.unlink(missing_ok=True)
    return name


def _place_address(placing: _Placing, url: str) -> str:
    with Incoming() as incoming:
        with client.get(
            url, max_bytes=settings.MAX_UPLOAD_BYTES, timeout=settings.INPUT_FETCH_SECONDS
        ) as answer:
            if not answer.ok:
                raise _Unusable(f"its server responded with {answer.status}")
            for chunk in answer.chunks():
                placing.alive()
                incoming.write(chunk)
        content_type = types.of_content(incoming.head)
        _check(incoming, content_type, placing.wanted)
        name = f"{incoming.sha256}{types.extension_of(content_type)}"
        return _place_content(placing, incoming, content_type, name)


def _check(incoming: Incoming, content_type: str, wanted: Accepted) -> None:
    message = media_kinds.refusal(content_type, wanted or types.MEDIA)
    if message:
        raise _Unusable(message)
    size = decoding.measure(incoming.content, content_type)
    if size is None and (message := media_kinds.damaged(content_type, measured=False)):
        raise _Unusable(message)
    if size is not None and size.pixels > settings.MAX_PICTURE_PIXELS:
        raise _Unusable(f"the picture claims {size.width} by {size.height} pixels, which is too large")


def _has_complete(placing: _Placing, name: str, size: int) -> bool:
    """Whether ComfyUI has the complete file; our sweep keeps it from now on until the run is over.

    Checked every time: others may clean ComfyUI's folders, and an interrupted upload leaves a partial file.
    """
    placing.backend.placed.need(placing.claim.token, name)
    return _size_in_comfyui(placing.backend, name) == size


def _size_in_comfyui(backend: Backend, name: str) -> int | None:
    """Size in bytes; None if it is not there. With our bridge this also marks it as recently used."""
    if backend.has_bridge:
        return Bridge(backend.client).use(name, older=settings.COMFYUI_INPUTS_KEPT_SECONDS / 4)
    try:
        with backend.client.view(OutputFile(filename=name, subfolder=FOLDER, type="input")) as there:
            return there.length
    except NotFound:
        return None


def _send(backend: Backend, name: str, stream: _ReportingStream) -> None:
    # MultipartBody only needs the stream's `read`.
    source: IO[bytes] = stream  # type: ignore[assignment]
    backend.client.upload(name, source, subfolder=FOLDER)


def placed_for(claim: Claim, prepared: parsing.Prompt) -> list[str]:
    """The names, below FOLDER, of all files that were placed for the prompt."""
    names = {
        str(nested_inputs.value_of(prepared[node_id]["inputs"], name)).removeprefix(f"{FOLDER}/")
        for node_id, name, _ in input_files.marked(claim.prompt)
    }
    return sorted(names)


def were_deleted(refused: Refused, claim: Claim, prepared: parsing.Prompt, *, backend: Backend) -> bool:
    """Whether files placed for the nodes blamed in the rejection have since been deleted."""
    blamed = {errors.node_id for errors in refused.node_errors.values()}
    names = [
        nested_inputs.value_of(prepared[node_id]["inputs"], name).removeprefix(f"{FOLDER}/")
        for node_id, name, _ in input_files.marked(claim.prompt)
        if node_id in blamed
    ]
    try:
        return any(_size_in_comfyui(backend, name) is None for name in names)
    except (Unreachable, NoBridge):
        return False


class _ReportingStream(io.RawIOBase):
    """A stream that calls `alive` with each read."""

    def __init__(self, reader: Any, alive: Alive) -> None:
        super().__init__()
        self._reader, self._alive = reader, alive

    def read(self, size: int = -1, /) -> bytes:
        self._alive()
        chunk: bytes = self._reader.read(size)
        return chunk
