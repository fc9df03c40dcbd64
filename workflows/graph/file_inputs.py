"""Which node inputs take a file, as reported by the workers' ComfyUIs, and which values they accept."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from comfyserve.api.errors import Detail

from . import node_classes
from .node_classes import USUAL
from .parsing import Graph, link, title_of

__all__ = ["USUAL", "classes", "misplaced", "taking_files"]

_ANNOTATED = re.compile(r"\[(input|output|temp)\]\s*$", re.IGNORECASE)
_DRIVE = re.compile(r"[A-Za-z]:")
_FILE_ID = re.compile(r"file_[0-9a-f]{32}", re.IGNORECASE)
# How PNG, JPEG, GIF, WebP, WAV, TIFF, MP4 and HEIC begin in base64, which some APIs take as it is.
_BASE64 = re.compile(r"(iVBORw0KGgo|/9j/|R0lGOD|UklGR|SUkq|TU0AK|AAAA)[A-Za-z0-9+/=\s_-]{40,}\Z")
_PLACED = re.compile(r"https?://|data:", re.IGNORECASE)


def taking_files(class_type: str) -> frozenset[str] | None:
    """Names of a class's inputs that take a file; None if no worker knows the class."""
    known = node_classes.known(class_type)
    return frozenset[str]().union(*(each.files for each in known)) if known else None


def classes(digest: str) -> frozenset[str]:
    """All node classes of a ComfyUI, by the digest of its object_info."""
    return frozenset(node_classes.table_of(digest))


def misplaced(graph: Graph) -> Iterator[Detail]:
    """Errors for file inputs that hold anything but our files: paths, links, wrapped values."""
    for node_id, node in graph.prompt.items():
        known = taking_files(node["class_type"])
        names = USUAL.get(node["class_type"], frozenset[str]()) if known is None else known
        for name in names & node["inputs"].keys():
            value = node["inputs"][name]
            if not _may_stand(value):
                yield _refusal(graph, node_id, name, value)
        if node["class_type"] == "Load3D" and _has_path(node["inputs"].get("image")):
            yield _refusal(graph, node_id, "image", node["inputs"]["image"])


def is_path(value: str) -> bool:
    """Whether ComfyUI would resolve it to anything but a plain name in its input folder."""
    return bool(
        "/" in value
        or "\\" in value
        or "\0" in value
        or value.strip() in (".", "..")
        or value.startswith("~")
        or _DRIVE.match(value)
        or _ANNOTATED.search(value)
    )


def _may_stand(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    text = value.strip()
    return bool(_PLACED.match(text) or not (is_path(text) or _id_inside(text) or _BASE64.match(text)))


def _id_inside(text: str) -> str | None:
    """The file_id inside a longer value, such as "file_… [input]" or "/files/file_…"; None if none."""
    found = _FILE_ID.search(text)
    return found.group().lower() if found and found.group().lower() != text else None


def _has_path(value: Any) -> bool:
    """Whether any string in a nested value is a path."""
    if isinstance(value, dict):
        return any(map(_has_path, value.values()))
    if isinstance(value, list):
        return any(map(_has_path, value))
    return isinstance(value, str) and not value.startswith("data:") and is_path(value)


def _refusal(graph: Graph, node_id: str, name: str, value: Any) -> Detail:
    inside = _id_inside(value.strip() if isinstance(value, str) else str(value)[:1000])
    message = (
        f"The input '{name}' of node {node_id} ({title_of(graph.prompt, node_id)}) takes a file: give a "
        f"file_id, an http(s) address or a data: URL, not {_kind_of(value)}"
        + (f"; send '{inside}' alone" if inside else "")
    )
    return Detail("PATH_NOT_ALLOWED", message, graph.paths.get((node_id, name)))


def _kind_of(value: Any) -> str:
    if link(value):
        return "a link"
    if not isinstance(value, str):
        return "this value"
    if _BASE64.match(value.strip()):
        return "bare base64; 'data:image/png;base64,' before it makes it a data: URL"
    return "a path"
