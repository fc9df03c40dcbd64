"""ComfyUI's `object_info` as it came, of the whole fleet: what is needed to read the editor's files.

`node_info` is the part of it that checks and messages need.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from workflows.models import ObjectInfo, Worker


def fleet() -> Mapping[str, Any]:
    """Every class that some worker has; of one that several have differently, as the worker heard of last
    says. Empty where no worker has told of its nodes. One small query."""
    digests = Worker.objects.exclude(object_info=None).order_by("heartbeat_at", "name")
    return _union(tuple(dict.fromkeys(digests.values_list("object_info_id", flat=True))))


@lru_cache(maxsize=2)
def _union(digests: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for digest in digests:
        found |= of(digest)
    return found


@lru_cache(maxsize=8)
def of(digest: str) -> dict[str, Any]:
    """By the digest of what a ComfyUI says; read once in each process."""
    body = ObjectInfo.objects.filter(digest=digest).values_list("body", flat=True).first()
    return body if isinstance(body, dict) else {}
