"""Selects the execution's own files, those in its folder, from the files that ComfyUI reports as outputs."""

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
    """Return (the execution's own files, each once, with their actual location; a log line for each other
    file).

    A node can make ComfyUI report any file at all. If ComfyUI has no bridge (not `confined`), files outside
    of any attempt's folder are accepted too: previews are such files.
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
    return list(dict.fromkeys(files)), lines


def _mark(claim: Claim, named: Iterable[OutputFile]) -> str:
    """The mark of the attempt that ComfyUI ran: an earlier one if this attempt followed its run."""
    for file in named:
        first = file.subfolder.replace("\\", "/").partition("/")[0]
        if first.startswith(f"{claim.execution_id}.") and MARK.fullmatch(first):
            return first
    return claim.mark


def _own(file: OutputFile, *, mark: str, confined: bool) -> OutputFile | None:
    """The file with its actual location; None if its name leads elsewhere."""
    parts = file.subfolder.replace("\\", "/").split("/") if file.subfolder else []
    is_plain = all(part not in ("", ".", "..") and "\0" not in part for part in parts)
    if file.type not in ("output", "temp") or not is_plain or NOT_PLAIN.search(file.filename):
        return None
    if parts[:1] == [mark]:
        return file
    if parts and MARK.fullmatch(parts[0]):
        return None  # of another execution or attempt
    return replace(file, subfolder="/".join([mark, *parts])) if confined else file
