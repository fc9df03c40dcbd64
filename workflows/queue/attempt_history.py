"""Reads an execution's history from its log lines: attempts with their workers, and node times."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db.models import Q

from workflows.models import LineKind, LogLine, Status

MAX_LINES = 6_000  # a workflow has at most 2,000 nodes, and each starts once per attempt
TAKEN = re.compile(r"Taken by worker (?P<worker>.+?)(?:, attempt (?P<number>\d+))?\Z", re.DOTALL)
BACK = "Back to the queue: "


@dataclass
class Attempt:
    """One attempt by one worker. `status` is waiting, running, completed, failed, cancelled or requeued;
    `fault` is the error or the reason for the requeue.
    """

    number: int
    worker: str
    taken_at: datetime
    began_at: datetime | None = None
    ended_at: datetime | None = None
    status: str = "waiting"
    fault: str = ""


@dataclass
class NodeTime:
    """When a node started in the last attempt, and how many seconds it ran (None if unknown)."""

    began_at: datetime
    seconds: float | None = None


@dataclass(frozen=True)
class History:
    attempts: list[Attempt]
    nodes: dict[str, NodeTime]


def history_of(execution_id: UUID, *, now: datetime) -> History:
    """Read the history, in one query for the relevant lines only. A running node is timed up to `now`."""
    relevant = Q(kind__in=[LineKind.STATUS, LineKind.NODE]) | Q(message__startswith="Taken by worker ")
    rows = LogLine.objects.filter(relevant, execution_id=execution_id).order_by("id")
    return read(list(rows[:MAX_LINES]), now=now)


def read(lines: Sequence[LogLine], *, now: datetime) -> History:
    attempts: list[Attempt] = []
    nodes: dict[str, NodeTime] = {}
    running: NodeTime | None = None
    for line in lines:
        if line.kind == LineKind.NODE:
            _stop(running, line.timestamp)
            running = nodes.setdefault(line.node_id or "", NodeTime(line.timestamp))
        elif line.kind == LineKind.STATUS:
            status = str((line.data or {}).get("status"))
            if status != Status.RUNNING:
                _stop(running, line.timestamp)
                running = None
            if attempts:
                _apply_line(attempts[-1], status, line)
        elif taken := TAKEN.match(line.message):
            number = int(taken["number"] or len(attempts) + 1)
            attempts.append(Attempt(number, taken["worker"], line.timestamp))
            nodes, running = {}, None
    _stop(running, now)
    return History(attempts, nodes)


def _stop(node: NodeTime | None, at: datetime) -> None:
    if node is not None and node.seconds is None:
        node.seconds = max(0.0, (at - node.began_at).total_seconds())


def _apply_line(attempt: Attempt, status: str, line: LogLine) -> None:
    if attempt.ended_at is not None:
        return
    if status == Status.RUNNING:
        attempt.began_at, attempt.status = line.timestamp, status
    elif status == Status.PENDING:
        attempt.ended_at, attempt.status = line.timestamp, "requeued"
        attempt.fault = line.message.removeprefix(BACK)
    else:
        attempt.ended_at, attempt.status = line.timestamp, status
        attempt.fault = str((line.data or {}).get("error") or "")
