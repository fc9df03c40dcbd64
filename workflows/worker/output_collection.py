"""Moves outputs from ComfyUI into storage while the next run is in progress.

They become visible only with the final transaction. Outputs of a failed run are kept too.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from typing import Any, TypeVar

from accounts import storage_use
from comfyserve.db import connections
from comfyui import Client, NotFound, Unreachable
from comfyui.types import History, OutputFile
from files import storing, types
from files.conversion_errors import CannotConvert
from files.formats import Group
from files.models import File, Kind
from workflows.graph import parsing, refusals
from workflows.models import Level, Output
from workflows.queue.claims import Claim
from workflows.queue.execution_log import Line

from . import own_outputs
from .backend import Backend

T = TypeVar("T")

logger = logging.getLogger(__name__)

MAX_TEXT_BYTES = 64 * 1024  # longest text stored in the row
VIEW_TRIES = 5  # for a file that a responding ComfyUI fails to return
LONGEST_SUBFOLDER = 500  # characters, the column's limit
_NOT_GIVEN = "ComfyUI does not give it"
_OVER_QUOTA = "the storage quota of its user is used up"
_NOT_STRIPPED = "the app does not show its workflow, which may be in it and cannot be removed"


def collect(
    claim: Claim,
    history: History,
    *,
    backend: Backend,
    alive: Callable[[], Any],
    stored: dict[OutputFile, File],
    failures: Counter[OutputFile],
) -> tuple[list[Output], list[Line], int]:
    """Return (unsaved outputs with their files in storage; log lines about missing or skipped outputs; the
    number of files that exceeded the user's storage quota).

    Only the execution's own files are collected: see `own_outputs`.

    `stored` maps the files stored by earlier tries and is extended, so that nothing is stored twice.
    `failures` likewise counts how often a responding ComfyUI failed to return a file: a custom node may have
    given it a name that breaks `/view`. After VIEW_TRIES it counts as missing, with a warning. `alive` is
    called during transfers. Raises Unreachable or the storage's errors: try again then.
    """
    outputs: list[Output] = []
    files, lines = own_outputs.select(claim, history.files, confined=backend.has_bridge)
    left_out, room = 0, _Room(claim)
    # ComfyUI lists nodes in order of completion. Outputs of one node keep ComfyUI's order.
    for written in sorted(files, key=lambda each: parsing.order_of(each.node_id)):
        try:
            if written not in stored:
                store = partial(_store, claim, written, backend=backend, alive=alive)
                stored[written] = room.fit(store, stored.values())
        except (NotFound, Unreachable, CannotConvert, _OverQuota) as exc:
            if isinstance(exc, Unreachable) and _may_come_back(written, failures, backend.client):
                raise
            left_out += isinstance(exc, _OverQuota)
            lines.append(_missing(claim, written, exc))
            continue
        outputs.append(output_of(claim, written, stored[written]))
    for node_id, text in sorted(history.texts, key=lambda each: parsing.order_of(each[0])):
        try:
            outputs.append(room.fit(partial(_text, claim, node_id, text), [each.file for each in outputs]))
        except _OverQuota:
            left_out += 1
            named = refusals.named(claim.prompt, node_id)
            message = f"{named}: a text is missing from the outputs, since {_OVER_QUOTA}"
            lines.append(Line(message, Level.WARNING, node_id))
    return outputs, lines, left_out


def _may_come_back(written: OutputFile, failures: Counter[OutputFile], client: Client) -> bool:
    """False once a ComfyUI that responds has failed VIEW_TRIES times to return the file."""
    failures[written] += client.ping()
    return failures[written] < VIEW_TRIES


class _OverQuota(Exception):
    """The file is larger than the user's remaining storage quota."""


_WHY: dict[type[Exception], str] = {CannotConvert: _NOT_STRIPPED, _OverQuota: _OVER_QUOTA}


def _missing(claim: Claim, written: OutputFile, exc: Exception) -> Line:
    named, why = refusals.named(claim.prompt, written.node_id), _WHY.get(type(exc), _NOT_GIVEN)
    message = f"{named}: its file {written.filename!r} is missing from the outputs, since {why}"
    return Line(message, Level.WARNING, written.node_id)


class _Room:
    """What is left of the user's storage quota. It is counted exactly only before something is refused."""

    def __init__(self, claim: Claim) -> None:
        self._user_id = claim.user_id
        self._exact = False
        self._count()

    def fit(self, store: Callable[..., T], taken: Collection[File | None]) -> T:
        """`store`, called with `most` bytes. It raises _OverQuota if it needs more; `taken` are not in the
        count."""
        try:
            return store(most=self._without(taken))
        except _OverQuota:
            if self._exact:
                raise
        self._exact = True
        self._count()
        return store(most=self._without(taken))

    def _count(self) -> None:
        """None: no limit, or it is currently unknown."""
        self._left: int | None = None
        try:
            with connections.step():
                self._left = storage_use.left(self._user_id, exact=self._exact)
        except connections.UNAVAILABLE as exc:
            logger.warning("the storage quota of user %s is not checked: %s", self._user_id, exc)

    def _without(self, taken: Iterable[File | None]) -> int | None:
        if self._left is None:
            return None
        return self._left - sum(file.size for file in taken if file is not None)


def _text(claim: Claim, node_id: str, text: str, *, most: int | None) -> Output:
    """Store a short text in the row, where lists and results include it, and a long one as a file. Raises
    _OverQuota if that has more than `most` bytes.
    """
    content = text.encode(errors="replace")
    if len(content) <= MAX_TEXT_BYTES:
        return Output(group=Group.TEXTS.value, node_id=node_id, text=text)
    if most is not None and len(content) > most:
        raise _OverQuota
    name = f"text_{node_id}.txt"
    file = storing.store(user_id=claim.user_id, kind=Kind.OUTPUT, filename=name, chunks=[content])
    return Output(group=Group.TEXTS.value, node_id=node_id, file=file)


def output_of(claim: Claim, written: OutputFile, file: File) -> Output:
    return Output(
        group=types.group_of(written.filename).value,
        node_id=written.node_id,
        subfolder=_plain(written.subfolder, claim),
        temporary=written.type == "temp",
        file=file,
    )


def _store(
    claim: Claim, written: OutputFile, *, backend: Backend, alive: Callable[[], Any], most: int | None
) -> File:
    """Raises _OverQuota if it has more than `most` bytes."""
    with backend.view(written) as stream:

        def chunks() -> Iterator[bytes]:
            size = 0
            for chunk in stream:
                alive()
                size += len(chunk)
                if most is not None and size > most:
                    raise _OverQuota
                yield chunk

        return storing.store(
            user_id=claim.user_id,
            kind=Kind.OUTPUT,
            filename=written.filename,
            chunks=chunks(),
            on_bytes=lambda _: alive(),
            strip=claim.hidden,
        )


def _plain(subfolder: str, claim: Claim) -> str:
    """The subfolder as the user named it, without the attempt's own folder."""
    first, _, rest = subfolder.partition("/")
    return (rest if first.startswith(str(claim.execution_id)) else subfolder)[:LONGEST_SUBFOLDER]
