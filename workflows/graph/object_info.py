"""The complete `object_info` of the fleet's ComfyUIs, needed to read the editor's files.

`node_info` is the part that checks and messages need.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from workflows.models import ObjectInfo, Worker


def fleet() -> Mapping[str, Any]:
    """Every class that any worker has; if definitions differ, that of the worker with the latest heartbeat.

    Empty if no worker has reported its nodes. One small query.
    """
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
    """The object_info with this digest; cached per process."""
    body = ObjectInfo.objects.filter(digest=digest).values_list("body", flat=True).first()
    return body if isinstance(body, dict) else {}
