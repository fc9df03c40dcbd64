"""What live streams read from the database: new lines of many executions at once, and where one stands."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db.models import Max, Min, Q
from django.db.models.functions import Now
from rest_framework.utils.encoders import JSONEncoder

from workflows.models import ALIVE, TERMINAL, Execution, LineKind, LogLine, Output, Status
from workflows.presentation import representations
from workflows.queue import scheduling

LINES_AT_ONCE = 1000
SHOWN_OF_USER = 200  # executions that a stream of all begins with, the newest
LATELY = timedelta(seconds=60)
OVERLAP = timedelta(seconds=5)


@dataclass(frozen=True)
class Event:
    """One event for readers. Numbered ones are stored; of the others only the newest matters."""

    name: str
    execution_id: UUID
    data: Mapping[str, Any]
    id: int | None = None
    output: Output | None = None  # its link depends on the reader's address of us
    _encoded: dict[str, bytes] = field(default_factory=dict, compare=False)

    @property
    def ends(self) -> bool:
        """Nothing comes after it."""
        return self.name == "status" and self.id is not None and self.data["status"] in TERMINAL

    def encoded(self, *, base: str) -> bytes:
        """As server-sent events have it; made once for all readers who see us at `base`."""
        if base not in self._encoded:
            number = f"id: {self.id}\n" if self.id is not None else ""
            data = json.dumps(self._shown(base), cls=JSONEncoder, separators=(",", ":"))
            self._encoded[base] = f"{number}event: {self.name}\ndata: {data}\n\n".encode()
        return self._encoded[base]

    def _shown(self, base: str) -> dict[str, Any]:
        shown = {"execution_id": self.execution_id, **self.data}
        if self.output is not None:
            shown |= {"group": self.output.group, **representations.one_output(self.output, base=base)}
        return shown


# -- lines -----------------------------------------------------------------------------------------------
def lines_after(cursors: Mapping[UUID, int]) -> list[Event]:
    """The stored events of these executions beyond each one's cursor: LINES_AT_ONCE at most, in order."""
    lines = LogLine.objects.raw(
        """
        SELECT l.* FROM unnest(%s::uuid[], %s::bigint[]) AS asked(id, after)
        JOIN workflows_logline l ON l.execution_id = asked.id AND l.id > asked.after
        ORDER BY l.id LIMIT %s
        """,
        [list(cursors), list(cursors.values()), LINES_AT_ONCE],
    )
    return _as_events(list(lines))


def _as_events(lines: Sequence[LogLine]) -> list[Event]:
    made = {line.execution_id for line in lines if line.kind == LineKind.OUTPUT}
    rows = Output.objects.select_related("file").filter(execution_id__in=made) if made else []
    outputs = {(row.execution_id, row.position): row for row in rows}
    return [_as_event(line, outputs) for line in lines]


def _as_event(line: LogLine, outputs: Mapping[tuple[UUID, int], Output]) -> Event:
    data: dict[str, Any] = {"timestamp": line.timestamp, "message": line.message}
    output = None
    match line.kind:
        case LineKind.LOG:
            data |= {"level": line.level, "node_id": line.node_id}
        case LineKind.NODE:
            data |= {"node_id": line.node_id}
        case LineKind.OUTPUT:
            output = outputs.get((line.execution_id, (line.data or {}).get("position", -1)))
        case LineKind.STATUS:
            data |= line.data or {}
    return Event(line.kind, line.execution_id, data, line.id, output)


# -- where they stand ------------------------------------------------------------------------------------
def standing(execution_id: UUID) -> list[Event]:
    """Where a live execution stands, as unnumbered events; nothing for one that has ended."""
    execution = Execution.objects.filter(id=execution_id, status__in=ALIVE).first()
    return _standing([execution]) if execution else []


def _standing(executions: Sequence[Execution]) -> list[Event]:
    positions = scheduling.positions([each.id for each in executions])
    found = []
    for each in executions:
        data = representations.status(each, queue_position=positions.get(each.id), estimated_seconds=None)
        progress = data.pop("progress")
        found.append(Event("status", each.id, data))
        if each.status == Status.RUNNING:
            found.append(Event("progress", each.id, progress))
    return found


def standing_of_user(user_id: int) -> tuple[list[Event], dict[UUID, int]]:
    """(the same for the user's newest live executions, how far each one's lines go)."""
    mine = Execution.objects.filter(user_id=user_id, status__in=ALIVE)
    # Lines first: one that comes in between is sent although the standing has it, never left out.
    cursors = dict(mine.annotate(last=Max("log_lines__id")).values_list("id", "last"))
    executions = list(mine.order_by("-created_at")[:SHOWN_OF_USER])[::-1]
    return _standing(executions), {id_: last or 0 for id_, last in cursors.items()}


def missed_by_user(user_id: int, *, after: int) -> dict[UUID, int]:
    """Cursors of the user's executions for a reader who stopped at line `after`.

    Numbers of different executions do not come in the order in which they became visible, so the reader
    gets the OVERLAP before that line again.
    """
    since = LogLine.objects.filter(id=after).values_list("timestamp", flat=True).first()
    lately = Q(completed_at__gt=Now() - LATELY)
    if since is not None:
        lately |= Q(completed_at__gte=since - OVERLAP)
    rows = Execution.objects.filter(user_id=user_id).filter(Q(status__in=ALIVE) | lately)
    ids = list(rows.order_by("-created_at").values_list("id", flat=True)[:LINES_AT_ONCE])
    first = None
    if since is not None:
        again = LogLine.objects.filter(execution_id__in=ids, id__lte=after, timestamp__gte=since - OVERLAP)
        first = again.aggregate(first=Min("id"))["first"]
    return dict.fromkeys(ids, after if first is None else first - 1)


def positions(ids: Iterable[UUID]) -> dict[UUID, int]:
    return scheduling.positions(list(ids))


def ended(ids: Iterable[UUID]) -> list[UUID]:
    """Those of them that have ended, or are not there any more."""
    alive = set(Execution.objects.filter(id__in=list(ids), status__in=ALIVE).values_list("id", flat=True))
    return [id_ for id_ in ids if id_ not in alive]


def owners(ids: Iterable[UUID]) -> dict[UUID, int]:
    """execution → user."""
    return dict(Execution.objects.filter(id__in=list(ids)).values_list("id", "user_id"))


def moving(user_ids: Iterable[int]) -> dict[UUID, int]:
    """execution → user: what runs or has changed lately, in case nobody was told of it."""
    rows = Execution.objects.filter(user_id__in=list(user_ids)).filter(
        Q(status=Status.RUNNING) | Q(created_at__gt=Now() - LATELY) | Q(completed_at__gt=Now() - LATELY)
    )
    return dict(rows.values_list("id", "user_id")[:LINES_AT_ONCE])
