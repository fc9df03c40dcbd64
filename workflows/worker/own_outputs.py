"""Which of the files that ComfyUI names as outputs are the execution's own: those in its folder."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from comfyui.types import OutputFile
from workflows.models import Level
from workflows.queue.claims import Claim
from workflows.queue.execution_log import Line

MARK = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.\d{1,9}")  # <execution id>.<attempt>
NOT_PLAIN = re.compile(r"[/\\\0]|\[(input|output|temp)\]\s*$")


def select(
    claim: Claim, named: Iterable[OutputFile], *, confined: bool
) -> tuple[list[OutputFile], list[Line]]:
    """(the files where they lie, a line for each that is none of ours).

    A node can make ComfyUI name any file at all. Where ComfyUI has no bridge (not `confined`), what lies in
    no attempt's folder is taken as well: previews do.
    """
    named = list(named)
    mark = _mark(claim, named)
    files: list[OutputFile] = []
    lines: list[Line] = []
    for file in named:
        own = _own(file, mark=mark, confined=confined)
        if own is not None:
            files.append(own)
        else:
            message = f"Node {file.node_id} names a file outside this execution's folder; it is left out"
            lines.append(Line(message, Level.WARNING, file.node_id))
    return files, lines


def _mark(claim: Claim, named: Iterable[OutputFile]) -> str:
    """Of the attempt that ComfyUI ran: an earlier one, where this one followed it."""
    for file in named:
        first = file.subfolder.replace("\\", "/").partition("/")[0]
        if first.startswith(f"{claim.execution_id}.") and MARK.fullmatch(first):
            return first
    return claim.mark


def _own(file: OutputFile, *, mark: str, confined: bool) -> OutputFile | None:
    """The file where it lies; None where its name leads elsewhere."""
    parts = file.subfolder.replace("\\", "/").split("/") if file.subfolder else []
    is_plain = all(part not in ("", ".", "..") and "\0" not in part for part in parts)
    if file.type not in ("output", "temp") or not is_plain or NOT_PLAIN.search(file.filename):
        return None
    if parts[:1] == [mark]:
        return file
    if parts and MARK.fullmatch(parts[0]):
        return None  # of another execution or attempt
    return replace(file, subfolder="/".join([mark, *parts])) if confined else file
