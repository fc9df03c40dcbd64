"""Texts that nodes show without a file, as assets: read-only, and gone with their job."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from accounts.models import User
from comfyserve.api.errors import NotFound
from files import links
from workflows.models import Output

PREFIX = "text_"  # of the ids; files have others
CONTENT_TYPE = "text/plain"


def is_text(asset_id: str) -> bool:
    return asset_id.startswith(PREFIX)


def find(*, user: User, asset_id: str) -> Output:
    """The text output of one of the user's executions, with the execution."""
    number = asset_id.removeprefix(PREFIX)
    found = None
    if number.isascii() and number.isdigit() and len(number) < 19:
        rows = Output.objects.select_related("execution").filter(text__isnull=False)
        found = rows.filter(id=int(number), execution__user=user).first()
    if found is None:
        raise NotFound(f"There is no asset {asset_id[:100]}")
    return found


def asset(made: Output, *, base: str) -> dict[str, Any]:
    """The Comfy API's `Asset`. Its URL requires the API key, unlike those of files."""
    created: datetime = made.execution.completed_at or made.execution.created_at
    return {**_common(made, base=base), "file_path": _name(made), "created_at": created, "expires_at": None}


def output(made: Output, *, base: str) -> dict[str, Any]:
    """The Comfy API's `Output`."""
    about = {"node_id": made.node_id, "name": _name(made), "type": "text", "job_id": str(made.execution_id)}
    return {**about, **_common(made, base=base)}


def _common(made: Output, *, base: str) -> dict[str, Any]:
    id_ = f"{PREFIX}{made.pk}"
    return {
        "id": id_,
        "hash": None,
        "content_type": CONTENT_TYPE,
        "size_bytes": len(content(made)),
        "url": f"{base}/api/v2/assets/{id_}/content",
        "url_expires_at": links.valid_until(),
    }


def content(made: Output) -> bytes:
    return (made.text or "").encode()


def _name(made: Output) -> str:
    return f"{made.node_id}_{made.position}.txt"
