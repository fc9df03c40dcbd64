"""The parts of a ComfyUI's `/object_info` that messages and checks need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from comfyserve.ttl_cache import TtlCache
from workflows.models import ObjectInfo, Worker


@dataclass(frozen=True)
class Input:
    """`kind` is a type such as INT or MODEL, or COMBO for a choice from `options`."""

    kind: str
    required: bool
    options: tuple[Any, ...] | None = None
    limits: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class NodeInfo:
    inputs: Mapping[str, Input]
    outputs: tuple[str, ...]


Classes = Mapping[str, NodeInfo]


def of(digest: str | None) -> Classes:
    """Node info by class; empty if there is no digest. Cached per process."""
    return _table(digest) if digest else {}


def _digests() -> list[str]:
    return sorted(set(Worker.objects.exclude(object_info=None).values_list("object_info_id", flat=True)))


cached_digests = TtlCache(_digests)


def everywhere() -> list[Classes]:
    """The classes of each distinct ComfyUI that a worker has reported; cached for a few seconds."""
    return [_table(digest) for digest in cached_digests()]


@lru_cache(maxsize=8)
def _table(digest: str) -> Classes:
    body = ObjectInfo.objects.filter(digest=digest).values_list("body", flat=True).first() or {}
    return {name: _node(about) for name, about in body.items() if isinstance(about, dict)}


def _node(about: Mapping[str, Any]) -> NodeInfo:
    outputs = about.get("output")
    return NodeInfo(
        inputs=dict(_inputs(about.get("input"))),
        outputs=tuple(_kind(each) for each in outputs) if isinstance(outputs, list) else (),
    )


def _inputs(sections: Any) -> Iterator[tuple[str, Input]]:
    for section in ("required", "optional"):
        found = sections.get(section) if isinstance(sections, dict) else None
        for name, definition in (found or {}).items():
            if isinstance(definition, list) and definition:
                yield name, _input(definition, required=section == "required")


def _input(definition: list[Any], *, required: bool) -> Input:
    kind, limits = (
        definition[0],
        definition[1] if len(definition) > 1 and isinstance(definition[1], dict) else {},
    )
    options = kind if isinstance(kind, list) else limits.get("options")
    return Input(
        kind=_kind(kind),
        required=required,
        options=tuple(options) if isinstance(options, list) else None,
        limits=limits,
    )


def _kind(definition: Any) -> str:
    return "COMBO" if isinstance(definition, list) else str(definition)
