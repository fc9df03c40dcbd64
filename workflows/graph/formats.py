"""Every form in which a workflow may be sent, read into one graph.

Accepted are the reference's own format and ComfyUI's API format (see `parsing`), the file that ComfyUI's
editor saves (`*.json`, `*.app.json`), what ComfyUI is sent (`{"prompt": …}`), and the id of an uploaded or
made file that holds one of these: JSON, or a picture into which ComfyUI wrote it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from accounts.models import User
from comfyserve.api.errors import Detail, Unavailable, ValidationFailed

from . import embedded, object_info, parsing
from .editor.conversion import Conversion, to_prompt
from .parsing import Graph


@dataclass(frozen=True)
class Reading:
    """`source` is the workflow without what it was wrapped in: what is kept, and read again for a retry.
    `conversion` is what was known of an editor's file; None for the other formats."""

    graph: Graph
    source: Any
    conversion: Conversion | None = None
    warnings: list[str] = field(default_factory=list)


def read(workflow: Any, *, user: User, max_nodes: int, path: str = "workflow") -> Reading:
    """The workflow as one prompt.

    Raises ValidationFailed with every mistake under the path of its element, and Unavailable where a file
    of the editor can not be read for want of any worker's word on its nodes.
    """
    if isinstance(workflow, str):
        workflow = embedded.workflow_of(workflow, user=user, path=path)
    source, path = unwrapped(workflow, path)
    if not is_editor_file(source):
        return Reading(parsing.parse(source, max_nodes=max_nodes, path=path), source)
    conversion = _converted(source, path=path, max_nodes=max_nodes)
    graph = parsing.checked(
        Graph(conversion.prompt, conversion.paths, conversion.node_paths), path=path, max_nodes=max_nodes
    )
    return Reading(graph, source, conversion, conversion.warnings)


def is_editor_file(workflow: Any) -> bool:
    return isinstance(workflow, dict) and isinstance(workflow.get("nodes"), list)


def unwrapped(workflow: Any, path: str) -> tuple[Any, str]:
    """Without `{"prompt": …}`, as clients send it to ComfyUI, and where the rest stands."""
    inner = workflow.get("prompt") if isinstance(workflow, dict) else None
    if isinstance(inner, dict) and not isinstance(inner.get("class_type"), str) and "nodes" not in workflow:
        return inner, f"{path}.prompt"
    return workflow, path


def _converted(file: dict[str, Any], *, path: str, max_nodes: int) -> Conversion:
    known = object_info.fleet()
    if not known:
        raise Unavailable(
            "A file of ComfyUI's editor can be read once a worker has told of its nodes; try again later, "
            "or send the workflow in the API format",
            retry_after=30,
        )
    conversion = to_prompt(file, known, path=path, max_nodes=max_nodes)
    if conversion.errors:
        raise ValidationFailed(conversion.errors)
    if not conversion.prompt:
        message = "The workflow has no node to run: all are notes, muted or bypassed"
        raise ValidationFailed([Detail("REQUIRED_FIELD", message, f"{path}.nodes")])
    return conversion
