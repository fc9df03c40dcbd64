"""The data of an execution's page in the admin."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Prefetch
from django.utils import timezone

from comfyserve.console import html
from files import console as bytes_
from workflows.graph import parsing
from workflows.models import ALIVE, Execution, LogLine, Output, Status
from workflows.presentation import representations
from workflows.queue import attempt_history, queue_positions
from workflows.webhooks import outbox

from . import graph_svg

LINES = 500  # log lines per request
SHOWN_INPUTS = 300
LONGEST_VALUE = 2_000  # characters of one input
LONGEST_WORKFLOW = 200_000  # characters on the page; longer ones can be downloaded


def execution_for_page(execution_id: Any) -> Execution | None:
    """With user, graph, outputs and deliveries. Four queries."""
    outputs = Prefetch("outputs", Output.objects.select_related("file").order_by("position"))
    rows = Execution.objects.select_related("user", "graph").prefetch_related(outputs)
    return rows.filter(id=execution_id).first()


@dataclass(frozen=True)
class Shown:
    """One output."""

    name: str
    address: str | None
    kind: str  # picture, video, audio, file, text, gone
    about: str
    text: str = ""


def live(row: Execution) -> dict[str, Any]:
    """What may change while the page is open: the part that refreshes itself."""
    now = timezone.now()
    history = attempt_history.history_of(row.id, now=now)
    deliveries = outbox.deliveries_of(row)
    details = row.graph.error_details or {}
    return {
        "execution": row,
        "alive": row.status in ALIVE,
        "ended_deliveries": any(each.state != each.State.WAITING for each in deliveries),
        "state": html.badge(row.status),
        "progress": html.progress(row.percentage, label="Progress"),
        "facts": _facts(row, now),
        "current": parsing.title_of(row.graph.prompt, row.current_node) if row.current_node else "",
        "eta": html.duration(row.eta_seconds),
        "error_details": json.dumps(details, indent=2, default=str) if details else "",
        "outputs": [_shown(output) for output in row.outputs.all()],
        "picture": _picture(row, history, details),
        "too_many_nodes": len(row.graph.prompt) > graph_svg.MAX_NODES,
        "attempts": [_attempt(attempt, now) for attempt in history.attempts],
        "deliveries": deliveries,
    }


def _facts(row: Execution, now: datetime) -> list[tuple[str, Any]]:
    position = queue_positions.of([row.id]).get(row.id) if row.status == Status.PENDING else None
    return html.pairs(
        [
            ("User", row.user.email),
            ("Priority", html.badge(row.priority)),
            ("Place in the queue", position),
            ("Held by", row.held),
            ("Held until", f"{row.held_until:%H:%M:%S} UTC" if row.held_until else ""),
            ("Submitted", html.ago(row.created_at)),
            ("Waited", html.duration(waited(row, now))),
            ("Ran", html.duration(ran(row, now))),
            ("GPU time", html.duration(row.gpu_seconds)),
            ("Worker", row.worker),
            ("Attempts", row.attempt or ""),
            ("Models", ", ".join(use["name"] for use in row.models_used)),
            ("Time limit", f"{row.timeout_minutes} min"),
            ("Request", row.request_id),
            ("Metadata", representations.own_metadata(row) if row.metadata else ""),
        ]
    )


def waited(row: Execution, now: datetime) -> float | None:
    """Seconds from submission until ComfyUI started it; until now or its end if it never started."""
    until = row.started_at or row.completed_at or (now if row.status in ALIVE else None)
    return (until - row.created_at).total_seconds() if until else None


def ran(row: Execution, now: datetime) -> float | None:
    if row.started_at is None:
        return None
    return ((row.completed_at or now) - row.started_at).total_seconds()


def model_of(row: Execution) -> str:
    return str(row.metadata.get("model_used") or representations.model_used(row) or "")


def _shown(output: Output) -> Shown:
    about = f"node {output.node_id}" + (", a preview" if output.temporary else "")
    file = output.file
    if file is None:
        kind = "gone" if output.text is None else "text"
        return Shown(kind, None, kind, about, output.text or "")
    family = file.content_type.partition("/")[0]
    kind = {"image": "picture", "video": "video", "audio": "audio"}.get(family, "file")
    size = f"{file.width} × {file.height}, " if file.width else ""  # noqa: RUF001
    return Shown(
        file.filename, bytes_.address_of(file), kind, f"{size}{html.size(file.size)}, {about}"
    )  # fmt: skip


def _attempt(attempt: attempt_history.Attempt, now: datetime) -> dict[str, Any]:
    began = attempt.began_at
    return {
        "number": attempt.number,
        "worker": attempt.worker,
        "taken": html.ago(attempt.taken_at),
        "status": html.badge(attempt.status, "warn" if attempt.status == "requeued" else None),
        "ran": html.duration(((attempt.ended_at or now) - began).total_seconds() if began else None),
        "fault": attempt.fault,
    }


# -- the graph -----------------------------------------------------------------------------------------
def _picture(
    row: Execution, history: attempt_history.History, details: dict[str, Any]
) -> graph_svg.Picture | None:
    prompt = row.graph.prompt
    passed = parsing.ancestors(prompt, list(history.nodes))  # the nodes it depends on were cached
    states = {node_id: _state_of(node_id, row, history, details) for node_id in prompt}
    states |= {node_id: "cached" for node_id in passed if states[node_id] == "waiting"}
    times = {
        node_id: html.duration(node.seconds)
        for node_id, node in history.nodes.items()
    }  # fmt: skip
    return graph_svg.draw(prompt, states=states, times=times)


def _state_of(node_id: str, row: Execution, history: attempt_history.History, details: dict[str, Any]) -> str:
    if node_id == details.get("node_id") or node_id in (details.get("node_errors") or {}):
        return "failed"
    if node_id in history.nodes:
        return "running" if row.status == Status.RUNNING and row.current_node == node_id else "done"
    return "cached" if row.status == Status.COMPLETED else "waiting"


# -- fixed part --------------------------------------------------------------------------------------------
def fixed(row: Execution) -> dict[str, Any]:
    text = workflow_text(row)
    return {
        "inputs": _inputs(row),
        "workflow": text if len(text) <= LONGEST_WORKFLOW else "",
        "retries": list(row.retries.order_by("created_at").values_list("id", flat=True)),
    }


def workflow_text(row: Execution) -> str:
    return json.dumps(row.graph.submitted, indent=2, ensure_ascii=False)


def _inputs(row: Execution) -> list[tuple[str, str, str]]:
    """(node, input, value) of the inputs that are not links."""
    prompt = row.graph.prompt
    found = [
        (parsing.title_of(prompt, node_id), str(name), _value(value))
        for node_id, node in prompt.items()
        for name, value in node["inputs"].items()
        if parsing.link(value) is None
    ]
    return found[:SHOWN_INPUTS]


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


# -- the log -------------------------------------------------------------------------------------------
def log(row: Execution, *, after: int | None = None) -> dict[str, Any]:
    """The latest lines, or those after a given one; and whether more may follow."""
    rows = LogLine.objects.filter(execution=row)
    if after is None:
        lines = list(rows.order_by("-id")[:LINES])[::-1]
    else:
        lines = list(rows.filter(id__gt=after).order_by("id")[:LINES])
    last = lines[-1].id if lines else (after or 0)
    return {
        "execution": row,
        "lines": lines,
        "last": last,
        "more": row.status in ALIVE or (len(lines) == LINES and after is not None),
        "cut": after is None and len(lines) == LINES,
    }
