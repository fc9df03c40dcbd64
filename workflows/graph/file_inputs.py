"""Which inputs of nodes take a file by its name: as the ComfyUIs of our workers say."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from workflows.models import ObjectInfo, Worker

# Of ComfyUI's own nodes, for as long as no worker has said anything.
USUAL: Mapping[str, frozenset[str]] = {
    "LoadImage": frozenset({"image"}),
    "LoadImageMask": frozenset({"image"}),
    "LoadAudio": frozenset({"audio"}),
    "LoadVideo": frozenset({"file"}),
    "Load3D": frozenset({"model_file"}),
}


def taking_files(class_type: str) -> frozenset[str] | None:
    """The names of a class's inputs that take a file; None where no worker knows the class.

    One small query; what a ComfyUI says is read once in each process.
    """
    digests = set(Worker.objects.exclude(object_info=None).values_list("object_info_id", flat=True))
    known = [table[class_type] for table in map(_table, sorted(digests)) if class_type in table]
    return frozenset[str]().union(*known) if known else None


def classes(digest: str) -> frozenset[str]:
    """All that a ComfyUI knows, by the digest of what it says."""
    return frozenset(_table(digest))


@lru_cache(maxsize=8)
def _table(digest: str) -> dict[str, frozenset[str]]:
    body = ObjectInfo.objects.filter(digest=digest).values_list("body", flat=True).first() or {}
    return {class_type: frozenset(_uploads(about)) for class_type, about in body.items()}


def _uploads(about: Any) -> list[str]:
    """ComfyUI marks them for its own editor: `image_upload`, `audio_upload`, `video_upload` and the like."""
    found = []
    sections = about.get("input", {}) if isinstance(about, dict) else {}
    for section in ("required", "optional"):
        for name, told in (sections.get(section) or {}).items():
            options = told[1] if isinstance(told, list) and len(told) > 1 else None
            if isinstance(options, dict) and any(
                key.endswith("_upload") and value is True for key, value in options.items()
            ):
                found.append(name)
    return found
