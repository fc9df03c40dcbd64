"""What the workers' ComfyUIs currently report about node inputs: types, ranges and choices.

If workers differ, a choice is valid if any of them has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from comfyserve.ttl_cache import TtlCache
from workflows.models import ObjectInfo, Worker

KEPT_OPTIONS = ("default", "min", "max", "step", "multiline", "tooltip")


@dataclass(frozen=True)
class InputDefinition:
    """`type` is ComfyUI's own name, COMBO for a list of choices. `upload`: what can be uploaded for it."""

    type: str
    choices: tuple[str, ...] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    upload: str = ""  # image, audio, video, file, or nothing


@dataclass(frozen=True)
class NodeDefinition:
    title: str
    is_output: bool
    inputs: Mapping[str, InputDefinition]


def _digests() -> list[str]:
    return sorted(set(Worker.objects.exclude(object_info=None).values_list("object_info_id", flat=True)))


cached_digests = TtlCache(_digests, seconds=2.0)


def node(class_type: str) -> NodeDefinition | None:
    """None if no worker knows the class. Each worker's report is read once per process."""
    known = [table[class_type] for table in map(_table, cached_digests()) if class_type in table]
    return known[0] if known else None


def choices(class_type: str, name: str) -> list[str] | None:
    """The choices of an input, on any worker; None if unknown."""
    found: dict[str, None] = {}
    for digest in cached_digests():
        definition = _table(digest).get(class_type)
        given = definition.inputs.get(name) if definition else None
        if given and given.choices is not None:
            found |= dict.fromkeys(given.choices)
    return list(found) if found else None


@lru_cache(maxsize=4)
def _table(digest: str) -> dict[str, NodeDefinition]:
    body = ObjectInfo.objects.filter(digest=digest).values_list("body", flat=True).first() or {}
    shared: dict[tuple[str, ...], tuple[str, ...]] = {}  # dozens of nodes list the same samplers and models
    return {
        class_type: NodeDefinition(
            title=str(about.get("display_name") or class_type),
            is_output=bool(about.get("output_node")),
            inputs=dict(_inputs(about, shared)),
        )
        for class_type, about in body.items()
        if isinstance(about, dict)
    }


def _inputs(about: Mapping[str, Any], shared: dict[tuple[str, ...], tuple[str, ...]]) -> Any:
    sections = about.get("input") or {}
    for section in ("required", "optional"):
        for name, definition in (sections.get(section) or {}).items():
            if isinstance(definition, list) and definition:
                yield name, _input(definition, shared)


def _input(definition: list[Any], shared: dict[tuple[str, ...], tuple[str, ...]]) -> InputDefinition:
    options = definition[1] if len(definition) > 1 and isinstance(definition[1], dict) else {}
    listed = definition[0] if isinstance(definition[0], list) else options.get("options")
    kept = {key: options[key] for key in KEPT_OPTIONS if key in options}
    if isinstance(listed, list):
        named = tuple(str(choice) for choice in listed)
        return InputDefinition("COMBO", shared.setdefault(named, named), kept, _upload(options))
    return InputDefinition(str(definition[0]), None, kept, _upload(options))


def _upload(options: Mapping[str, Any]) -> str:
    """ComfyUI's flags for its own editor: `image_upload`, `audio_upload`, `video_upload` and the like."""
    for key, value in options.items():
        if key.endswith("_upload") and value is True:
            kind = key.removesuffix("_upload")
            return kind if kind in ("image", "audio", "video") else "file"
    return ""
