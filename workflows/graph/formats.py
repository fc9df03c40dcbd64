"""Parses every accepted workflow format into one graph.

Accepted are the API reference's format and ComfyUI's API format (see `parsing`), the files that ComfyUI's
editor saves (`*.json`, `*.app.json`), the body of ComfyUI's own `POST /prompt` (`{"prompt": …}`), and the id
of an uploaded or generated file that contains one of these, as JSON or embedded in an image.
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
    """`source` is the workflow without its wrapper; it is stored and parsed again for a retry. `conversion`
    is set for editor files only.
    """

    graph: Graph
    source: Any
    conversion: Conversion | None = None
    warnings: list[str] = field(default_factory=list)


def read(workflow: Any, *, user: User, max_nodes: int, path: str = "workflow") -> Reading:
    """Parse the workflow into one prompt.

    Raises ValidationFailed with all errors, each under the path of its element, and Unavailable if an editor
    file cannot be read because no worker has reported its nodes yet.
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
    """Remove the `{"prompt": …}` wrapper that ComfyUI clients send; return the workflow and its path."""
    inner = workflow.get("prompt") if isinstance(workflow, dict) else None
    if isinstance(inner, dict) and not isinstance(inner.get("class_type"), str) and "nodes" not in workflow:
        return inner, f"{path}.prompt"
    return workflow, path


def _converted(file: dict[str, Any], *, path: str, max_nodes: int) -> Conversion:
    known = object_info.fleet()
    if not known:
        raise Unavailable(
            "A file of ComfyUI's editor can be read once a worker has reported its nodes; try again later, "
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
