"""Executions as ComfyUI's queue and history show prompts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from files.formats import Group
from workflows.graph import input_files
from workflows.models import Execution, Output, Status
from workflows.presentation import selectors

KEYS = {Group.VIDEOS: "images", Group.TEXTS: "text"}  # where ComfyUI lists a group under another name


def queue_item(execution: Execution, number: int, prompt: Mapping[str, Any]) -> list[Any]:
    """`[number, prompt_id, prompt, extra_data, outputs_to_execute]`. `extra_data` is never shown."""
    return [number, str(execution.id), _shown(execution, prompt), {}, []]


def _shown(execution: Execution, prompt: Mapping[str, Any]) -> dict[str, Any]:
    """The prompt as submitted; empty if the app's owner does not show the workflow."""
    hidden_from = (execution.app or {}).get("hidden_from")
    if hidden_from not in (None, execution.user_id):
        return {}
    return dict(input_files.as_given(dict(prompt)))


def history(executions: Sequence[Execution], prompts: Mapping[UUID, Mapping[str, Any]]) -> dict[str, Any]:
    """By prompt_id, in the given order. They must have ended. Those without a prompt show an empty one."""
    ids = [each.id for each in executions]
    made = selectors.outputs(ids)
    details = selectors.error_details_of([each.id for each in executions if each.error])
    return {
        str(each.id): {
            "prompt": queue_item(each, number, prompts.get(each.id, {})),
            "outputs": outputs(made[each.id]),
            "status": _status(each, details.get(each.id) or {}),
            "meta": {},
        }
        for number, each in enumerate(executions)
    }


def outputs(made: Iterable[Output]) -> dict[str, Any]:
    """By node. The subfolder is the file's id, by which `/view` finds it: names alone are not unique."""
    nodes: dict[str, dict[str, list[Any]]] = {}
    for output in made:
        group = KEYS.get(Group(output.group), output.group)
        if output.file is not None:
            shown: Any = {
                "filename": output.file.filename,
                "subfolder": output.file.id,
                "type": "temp" if output.temporary else "output",
            }
        elif output.text is not None:
            shown = output.text
        else:
            continue  # the file was deleted
        node = nodes.setdefault(output.node_id, {})
        node.setdefault(group, []).append(shown)
        if output.group == Group.VIDEOS:
            node["animated"] = [True]  # ComfyUI's front end plays it
    return nodes


# -- jobs ------------------------------------------------------------------------------------------------
JOB_STATUSES = {
    Status.PENDING.value: "pending",
    Status.RUNNING.value: "in_progress",
    Status.COMPLETED.value: "completed",
    Status.FAILED.value: "failed",
    Status.CANCELLED.value: "cancelled",
}
PREVIEWABLE = ("images", "audio", "3d")


def job(
    execution: Execution, made: Sequence[Output], details: dict[str, Any], workflow_id: str | None
) -> dict[str, Any]:
    """An entry of ComfyUI's `/api/jobs`, without unknown values.

    It has no `priority`: our queue has no numbers, and front ends then number the jobs in the given order.
    """
    files = [
        {**item, "nodeId": node_id, "mediaType": kind}
        for node_id, kinds in outputs(made).items()
        for kind, items in kinds.items()
        for item in items
        if isinstance(item, dict)
    ]
    shown = {
        "id": str(execution.id),
        "status": JOB_STATUSES[execution.status],
        "create_time": _milliseconds(execution.created_at),
        "outputs_count": len(files),
        "previewable_outputs_count": sum(item["mediaType"] in PREVIEWABLE for item in files),
        "preview_output": _preview(files),
        "workflow_id": workflow_id,
    }
    if execution.completed_at is not None:
        kind, data = last_message(execution, details)
        shown["execution_start_time"] = first_message(execution)[1]["timestamp"]
        shown["execution_end_time"] = data["timestamp"]
        shown["execution_error"] = data if kind == "execution_error" else None
    return {name: value for name, value in shown.items() if value is not None}


def _preview(files: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The first that ComfyUI's front end can show, a result before a preview."""
    able = [item for item in files if item["mediaType"] in PREVIEWABLE]
    return next((item for item in able if item["type"] == "output"), able[0] if able else None)


def job_details(execution: Execution, made: Sequence[Output], details: dict[str, Any]) -> dict[str, Any]:
    """What ComfyUI shows in addition for a single job. The graph must be loaded."""
    prompt = _shown(execution, execution.graph.prompt)
    info = (execution.graph.extras.get("extra_data") or {}).get("extra_pnginfo") if prompt else None
    shown = {"workflow": {"prompt": prompt, "extra_data": {"extra_pnginfo": info} if info else {}}}
    if execution.completed_at is None:
        return shown
    return {**shown, "outputs": outputs(made), "execution_status": _status(execution, details)}


# -- messages --------------------------------------------------------------------------------------------
def first_message(execution: Execution) -> tuple[str, dict[str, Any]]:
    began = _milliseconds(execution.started_at or execution.created_at)
    return "execution_start", {"prompt_id": str(execution.id), "timestamp": began}


def last_message(execution: Execution, details: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """ComfyUI's final message; the execution must have ended."""
    ended = {"prompt_id": str(execution.id), "timestamp": _milliseconds(execution.completed_at)}
    match execution.status:
        case Status.COMPLETED:
            return "execution_success", ended
        case Status.CANCELLED:
            return "execution_interrupted", {**ended, "node_id": None, "node_type": None, "executed": []}
    return "execution_error", {**ended, **_error(execution, details)}


def _status(execution: Execution, details: dict[str, Any]) -> dict[str, Any]:
    done = execution.status == Status.COMPLETED
    return {
        "status_str": "success" if done else "error",
        "completed": done,
        "messages": [list(first_message(execution)), list(last_message(execution, details))],
    }


def _error(execution: Execution, details: dict[str, Any]) -> dict[str, Any]:
    return {
        "node_id": details.get("node_id"),
        "node_type": details.get("class_type") or details.get("node_type"),
        "exception_message": execution.error,
        "exception_type": details.get("exception_type") or details.get("type"),
        "traceback": [],
        "executed": [],
    }


def _milliseconds(moment: datetime | None) -> int:
    return int(moment.timestamp() * 1000) if moment else 0
