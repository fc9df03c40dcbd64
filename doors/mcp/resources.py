"""Results and files as resources: `comfyserve://executions/{id}` and `comfyserve://files/{id}`.

Each function runs in a thread and returns plain values.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from comfyserve.api.errors import NotFound, PayloadTooLarge
from comfyserve.api.rendering import rendered
from files import queries, storing
from workflows.presentation import representations, selectors

from .views import Caller

SCHEME = "comfyserve://"
MAX_LISTED = 50  # the newest executions
LARGEST_FILE = 8 * 1024 * 1024  # bytes; larger ones are downloaded from the URL in the result
JSON = "application/json"
TEMPLATES: tuple[dict[str, Any], ...] = (
    {
        "name": "execution",
        "uri_template": f"{SCHEME}executions/{{execution_id}}",
        "description": "State and result of an execution",
        "mime_type": JSON,
    },
    {
        "name": "file",
        "uri_template": f"{SCHEME}files/{{file_id}}",
        "description": f"A file, such as an output of an execution, of up to {LARGEST_FILE // 2**20} MiB",
    },
)


@dataclass(frozen=True)
class Content:
    """`text`, or `blob` in base64."""

    content_type: str
    text: str | None = None
    blob: str | None = None


def uri_of_execution(id_: UUID) -> str:
    return f"{SCHEME}executions/{id_}"


def listed(caller: Caller) -> list[dict[str, Any]]:
    """The newest executions of the caller."""
    return [
        {
            "uri": uri_of_execution(each.id),
            "name": str(each.id),
            "description": f"{(each.app or {}).get('name', 'A workflow')}: {each.status}",
            "mime_type": JSON,
        }
        for each in selectors.executions_of(user=caller.user)[:MAX_LISTED]
    ]


def read(caller: Caller, uri: str) -> Content:
    """NotFound unless it belongs to the caller; PayloadTooLarge for a large file."""
    kind, _, id_ = uri.removeprefix(SCHEME).partition("/")
    if uri.startswith(SCHEME) and kind == "executions":
        found = selectors.whole_of(user=caller.user, execution_id=id_)
        shown = representations.result_of(found, base=caller.base)
        return Content(JSON, text=rendered(shown).decode())
    if uri.startswith(SCHEME) and kind == "files":
        return _file(caller, id_)
    raise NotFound(f"There is no resource {uri[:100]}")


def _file(caller: Caller, file_id: str) -> Content:
    file = queries.file_of(file_id=file_id, user=caller.user)
    if file.size > LARGEST_FILE:
        raise PayloadTooLarge(f"The file has {file.size} bytes; download it from the URL in the result")
    with storing.opened(file) as reader:
        content = reader.read(file.size)
    if file.content_type.startswith("text/") or file.content_type == JSON:
        return Content(file.content_type, text=content.decode("utf-8", "replace"))
    return Content(file.content_type, blob=base64.b64encode(content).decode())
