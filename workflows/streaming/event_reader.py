"""The database reads of live streams: new lines of many executions at once, and their current state."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from django.db.models import Max, Min, Q, QuerySet
from django.db.models.functions import Now
from rest_framework.utils.encoders import JSONEncoder

from comfyserve.db import rows
from comfyserve.db.rows import Columns
from workflows.models import ALIVE, TERMINAL, Execution, LineKind, LogLine, Output, Status
from workflows.presentation import end_message, representations, selectors
from workflows.queue import queue_positions

LINES_AT_ONCE = 1000
SHOWN_OF_USER = 200  # executions in the initial state of a stream of all executions, newest first
MAX_MISSED = 10_000  # executions whose events are replayed after a reconnect
RECENT = timedelta(seconds=60)
OVERLAP = timedelta(seconds=5)  # how much later lines of other executions may become visible
# The same for status changes: timeouts abort any transaction that takes longer.
LONGEST_COMMIT = timedelta(seconds=60)
NO_EXECUTION = UUID(int=0)
GAP = "Some events are no longer stored. Read the state of your executions again."


@dataclass(frozen=True)
class Event:
    """One event for readers. Numbered events are stored; of the others only the newest matters."""

    name: str
    execution_id: UUID
    data: Mapping[str, Any]
    id: int | None = None
    output: Output | None = None  # its link depends on the base URL the reader uses
    # With the last event: the rows of the result, if they came with the message about the end.
    whole: selectors.Whole | None = field(default=None, compare=False, repr=False)
    _encoded: dict[str, bytes] = field(default_factory=dict, compare=False)

    @property
    def ends(self) -> bool:
        """Whether it is the execution's last event."""
        return self.name == "status" and self.id is not None and self.data["status"] in TERMINAL

    def encoded(self, *, base: str) -> bytes:
        """As a server-sent event; encoded once for all readers with the same `base`."""
        if base not in self._encoded:
            number = f"id: {self.id}\n" if self.id is not None else ""
            data = json.dumps(self._shown(base), cls=JSONEncoder, separators=(",", ":"))
            self._encoded[base] = f"{number}event: {self.name}\ndata: {data}\n\n".encode()
        return self._encoded[base]

    def _shown(self, base: str) -> dict[str, Any]:
        if self.name == "gap":
            return dict(self.data)  # belongs to no particular execution
        shown = {"execution_id": self.execution_id, **self.data}
        if self.output is not None:
            shown |= {"group": self.output.group, **representations.one_output(self.output, base=base)}
        return shown


# -- lines -----------------------------------------------------------------------------------------------
_LINE = Columns(LogLine, "l")
_LINES_AFTER_SQL = f"""
    SELECT {_LINE} FROM unnest(%s::uuid[], %s::bigint[]) AS asked(id, after)
    JOIN workflows_logline l ON l.execution_id = asked.id AND l.id > asked.after
    ORDER BY l.id LIMIT {LINES_AT_ONCE}
"""  # noqa: S608


def lines_after(cursors: Mapping[UUID, int]) -> list[Event]:
    """The stored events of these executions after each one's cursor: at most LINES_AT_ONCE, in order."""
    found = rows.prepared(_LINES_AFTER_SQL, [list(cursors), list(cursors.values())])
    return _as_events([_LINE.read(row) for row in found.fetchall()])


def all_lines_after(cursors: dict[UUID, int]) -> list[Event]:
    """All stored events of these executions after their cursors; advances the cursors."""
    asked: Mapping[UUID, int] = cursors.copy()
    found: list[Event] = []
    while True:
        lines = lines_after(asked)
        found += lines
        for line in lines:
            cursors[line.execution_id] = line.id or 0
        if len(lines) < LINES_AT_ONCE:
            return found
        # Lines are ordered by id: up to the last one, none are left of any execution.
        last = lines[-1].id or 0
        asked = {id_: max(cursor, last) for id_, cursor in asked.items()}


def _as_events(lines: Sequence[LogLine]) -> list[Event]:
    made = {line.execution_id for line in lines if line.kind == LineKind.OUTPUT}
    outputs = selectors.outputs(list(made)).values() if made else ()
    return _with_outputs(lines, itertools.chain.from_iterable(outputs))


def _with_outputs(lines: Iterable[LogLine], outputs: Iterable[Output]) -> list[Event]:
    found = {(output.execution_id, output.position): output for output in outputs}
    return [_as_event(line, found) for line in lines]


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


def lines_of_end(packed: str, execution_id: UUID, *, after: int) -> list[Event] | None:
    """The stored events after the cursor, from the rows in the message about the end. Makes no query.

    None if they have to be read: the rows are those of other columns, or do not reach back to the cursor.
    """
    found = end_message.unpack(packed) if len(packed) <= end_message.LONGEST else None
    if found is None or found.execution.id != execution_id:
        return None
    # Fewer than the most that it may have are all lines of the execution.
    all_lines = len(found.lines) < selectors.LINES_IN_RESULT
    if not found.lines or not (all_lines or found.lines[0].id <= after):
        return None
    events = _with_outputs([line for line in found.lines if line.id > after], found.outputs)
    return [replace(event, whole=found) if event.ends else event for event in events]


def progress(execution_id: UUID, columns: Mapping[str, Any]) -> Event:
    """The progress in a notification, in the same shape as `representations.progress`."""
    eta = columns.get("eta_seconds")
    shown = {
        **columns,
        "percentage": round(columns.get("percentage", 0.0), 1),
        "eta_seconds": None if eta is None else round(eta, 1),
    }
    return Event("progress", execution_id, shown)


# -- current state ---------------------------------------------------------------------------------------
def beginning(execution_id: UUID, *, after: int) -> tuple[list[Event], int, datetime | None]:
    """(what a stream of this execution begins with, the id of its last line, when it ended).

    Its stored events after the cursor and, if it has not ended, its current state as unnumbered events. All
    stored events if the cursor is beyond the last one: the client cannot have received it from here.
    """
    cursors = {execution_id: after}
    found = all_lines_after(cursors)
    if not found and after > _last_line(execution_id):
        cursors = {execution_id: 0}
        found = all_lines_after(cursors)
    # The state is read after the lines: it may be newer than the last of them, but not older.
    ended_at: datetime | None = next((line.data["timestamp"] for line in found if line.ends), None)
    if ended_at is None:
        execution = selectors.by_id(execution_id)
        if execution is not None:
            ended_at = execution.completed_at
            found += _current_states([execution]) if execution.status in ALIVE else []
    return found, cursors[execution_id], ended_at


def _last_line(execution_id: UUID) -> int:
    return LogLine.objects.filter(execution_id=execution_id).aggregate(last=Max("id"))["last"] or 0


def _current_states(executions: Sequence[Execution]) -> list[Event]:
    positions = queue_positions.of([each.id for each in executions if each.status == Status.PENDING])
    found = []
    for each in executions:
        data = representations.status(each, queue_position=positions.get(each.id), estimated_seconds=None)
        progress = data.pop("progress")
        found.append(Event("status", each.id, data))
        if each.status == Status.RUNNING:
            found.append(Event("progress", each.id, progress))
    return found


def current_states_of_user(user_id: int) -> tuple[list[Event], dict[UUID, int]]:
    """(the same for the user's newest live executions, the id of each one's last line)."""
    mine = Execution.objects.filter(user_id=user_id, status__in=ALIVE)
    # Cursors first: a line written in between is then sent twice rather than missed. Of what is submitted in
    # between all lines are sent: its state could be newer than the first of them.
    cursors = dict(mine.annotate(last=Max("log_lines__id")).values_list("id", "last"))
    executions = list(mine.order_by("-created_at")[:SHOWN_OF_USER])[::-1]
    states = _current_states([each for each in executions if each.id in cursors])
    return states, {id_: last or 0 for id_, last in cursors.items()}


def gap() -> Event:
    """For a reader some of whose missed events can no longer be replayed."""
    return Event("gap", NO_EXECUTION, {"message": GAP})


@dataclass(frozen=True)
class Missed:
    """What a reconnecting reader has missed."""

    cursors: dict[UUID, int]
    after: int  # id of the last line it received
    since: datetime | None  # when that line, or the nearest one before it, was written
    gap: bool  # some missed lines may have been deleted

    def wants(self, line: Event) -> bool:
        """Of lines that it may have received: all recent ones, but only status changes among older ones."""
        if (line.id or 0) > self.after or line.name == "status" or self.since is None:
            return True
        written: datetime = line.data["timestamp"]
        return written >= self.since - OVERLAP


def missed_by_user(user_id: int, *, after: int) -> Missed:
    """The user's events for a reader that stopped at line `after`.

    Line ids of different executions do not become visible in order, so the reader also gets some lines before
    that one again, with the same ids.
    """
    known = LogLine.objects.filter(id=after, execution__user_id=user_id).exists()
    before = LogLine.objects.filter(id__lte=after).order_by("-id")
    # Not beyond the lines there are: the cursors would hide those that are still to come.
    after, since = before.values_list("id", "timestamp").first() or (0, None)
    changed = Q(completed_at__gt=Now() - RECENT)
    if since is not None:
        changed |= Q(completed_at__gte=since - LONGEST_COMMIT)
    rows = Execution.objects.filter(user_id=user_id).filter(Q(status__in=ALIVE) | changed)
    ids = list(rows.order_by("-created_at").values_list("id", flat=True)[: MAX_MISSED + 1])
    gap = not known or len(ids) > MAX_MISSED
    first = None
    if since is not None:
        again = LogLine.objects.filter(id__lte=after, timestamp__gte=since - LONGEST_COMMIT)
        first = again.filter(execution_id__in=ids).aggregate(first=Min("id"))["first"]
    cursor = after if first is None else first - 1
    return Missed(dict.fromkeys(ids[:MAX_MISSED], cursor), after, since, gap)


def positions(ids: Iterable[UUID]) -> dict[UUID, int]:
    return queue_positions.of(list(ids))


def ended(ids: Iterable[UUID]) -> list[UUID]:
    """Those that have ended or no longer exist."""
    alive = set(Execution.objects.filter(id__in=list(ids), status__in=ALIVE).values_list("id", flat=True))
    return [id_ for id_ in ids if id_ not in alive]


def database_time() -> datetime:
    """The time by the database's clock, which also sets `completed_at`."""
    [[now]] = rows.prepared("SELECT statement_timestamp()", []).fetchall()
    return now  # type: ignore[no-any-return]


class Owned(NamedTuple):
    """Whose an execution is, and when it ended."""

    user_id: int
    ended_at: datetime | None = None


def owners(ids: Iterable[UUID]) -> dict[UUID, Owned]:
    """Those that exist."""
    return _owners(Execution.objects.filter(id__in=list(ids)))


def _owners(executions: QuerySet[Execution]) -> dict[UUID, Owned]:
    found = executions.values_list("id", "user_id", "completed_at")
    return {id_: Owned(user_id, ended_at) for id_, user_id, ended_at in found}


def recently_active(user_ids: Iterable[int], *, within: timedelta) -> dict[UUID, Owned]:
    """Those running, or changed within that time, in case a notification was lost."""
    begin = Now() - within
    found = Execution.objects.filter(user_id__in=list(user_ids)).filter(
        Q(status=Status.RUNNING) | Q(created_at__gt=begin) | Q(completed_at__gt=begin)
    )
    return _owners(found.order_by("-created_at")[:MAX_MISSED])
