"""Outputs from ComfyUI into storage, beside the next run.

They become visible with the final transaction only. What a failed run had written is kept too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

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

MAX_TEXT_BYTES = 64 * 1024  # of a text in the row
VIEW_TRIES = 5  # of a file that a ComfyUI that answers does not give
LONGEST_SUBFOLDER = 500  # characters, as the column has
_NOT_GIVEN = "ComfyUI does not give it"
_NOT_STRIPPED = "the app does not show its workflow, which may be in it and cannot be removed"


def collect(
    claim: Claim,
    history: History,
    *,
    client: Client,
    confined: bool,
    alive: Callable[[], Any],
    stored: dict[OutputFile, File],
    failures: Counter[OutputFile],
) -> tuple[list[Output], list[Line]]:
    """(outputs, not saved yet, with their files in storage; lines about what was missing or left out).

    Only what is the execution's own: see `own_outputs` for that, and for `confined`.

    `stored` is what an earlier try had brought into the storage, and grows: nothing is brought there twice.
    `failures` counts, in the same way, how often a ComfyUI that answers did not give a file: a custom node
    may have given it a name that breaks `/view`. After VIEW_TRIES it is missing, with a warning.
    `alive` is called while bytes flow. Raises Unreachable, or what the storage raises: try again then.
    """
    outputs: list[Output] = []
    files, lines = own_outputs.select(claim, history.files, confined=confined)
    # ComfyUI lists nodes as they happened to finish. Those of one node stay in its own order.
    for written in sorted(files, key=lambda each: parsing.order_of(each.node_id)):
        try:
            if written not in stored:
                stored[written] = _store(claim, written, client=client, alive=alive)
        except (NotFound, Unreachable, CannotConvert) as exc:
            if isinstance(exc, Unreachable):
                failures[written] += client.ping()
                if failures[written] < VIEW_TRIES:
                    raise
            why = _NOT_STRIPPED if isinstance(exc, CannotConvert) else _NOT_GIVEN
            named = refusals.named(claim.prompt, written.node_id)
            message = f"{named}: its file {written.filename!r} is missing from the outputs, since {why}"
            lines.append(Line(message, Level.WARNING, written.node_id))
            continue
        outputs.append(output_of(claim, written, stored[written]))
    texts = sorted(history.texts, key=lambda each: parsing.order_of(each[0]))
    outputs += [_text(claim, node_id, text) for node_id, text in texts]
    return outputs, lines


def _text(claim: Claim, node_id: str, text: str) -> Output:
    """In the row, where lists and results carry it; a long one as a file."""
    content = text.encode(errors="replace")
    if len(content) <= MAX_TEXT_BYTES:
        return Output(group=Group.TEXTS.value, node_id=node_id, text=text)
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


def _store(claim: Claim, written: OutputFile, *, client: Client, alive: Callable[[], Any]) -> File:
    with client.view(written) as stream:

        def chunks() -> Iterator[bytes]:
            for chunk in stream:
                alive()
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
    """The subfolder as the user named it, without that of the attempt."""
    first, _, rest = subfolder.partition("/")
    return (rest if first.startswith(str(claim.execution_id)) else subfolder)[:LONGEST_SUBFOLDER]
