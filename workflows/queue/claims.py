"""Claims: which worker holds which execution, and when its lease expires.

Claiming changes no status; every later status change is fenced by the claim's token.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.db.models import QuerySet

from accounts import quotas
from comfyserve.db import rows
from workflows import task_events
from workflows.models import ALIVE, Execution

from . import execution_log, scheduling
from .execution_log import Line


@dataclass(frozen=True)
class Claim:
    """An execution held by one worker; `token` fences every write the worker makes for it."""

    execution_id: UUID
    token: UUID
    worker: str
    attempt: int
    user_id: int
    status: str
    timeout_minutes: int
    started_at: datetime | None
    posted_at: datetime | None
    boot: str
    faults: int
    losses: int  # number of workers that were lost while holding it
    handled_alone: bool  # by the last worker that was lost
    tries: int  # failed tries before this claim that were not the workflow's fault
    request_id: str
    excluded: list[str]
    kind: str
    username: str
    priority: str
    models: list[str]
    webhook: bool  # a webhook is registered for it
    batch: bool  # it belongs to a batch
    # Executions that its user may have running at once, when this one was claimed; None is no limit.
    running_at_once: int | None
    more: bool  # another execution was waiting, for some worker, when this one was claimed or adopted
    elapsed: float  # seconds it ran before this claim or adoption, by the database clock
    prompt: dict[str, Any]
    extras: dict[str, Any]  # sent to ComfyUI alongside the prompt
    output: dict[str, Any]  # requested output options: see workflows.api.serializers.OutputOptions
    hidden: bool  # it runs an app that hides its workflow from this user
    taken_at: float | None  # monotonic seconds in this process; None if the claim was adopted

    @property
    def mark(self) -> str:
        """The identifier used in save prefixes and scratch folders."""
        return f"{self.execution_id}.{self.attempt}"


_CLAIM_FIELDS = """
    e.id AS execution_id, e.claim_token AS token, e.worker, e.attempt, e.user_id, e.status, e.timeout_minutes,
    e.started_at, e.posted_at, e.boot, e.faults, e.losses,
    e.handled_alone, e.tries, e.request_id, e.excluded, e.kind,
    (SELECT username FROM accounts_user u WHERE u.id = e.user_id) AS username, e.priority,
    ARRAY(SELECT model ->> 'name' FROM jsonb_array_elements(e.models_used) model) AS models,
    EXISTS (SELECT FROM workflows_webhook w WHERE w.execution_id = e.id) AS webhook,
    e.batch_id IS NOT NULL AS batch,
    (SELECT executions_running FROM accounts_userlimits l WHERE l.user_id = e.user_id) AS running_at_once,
    EXISTS (SELECT FROM workflows_execution o WHERE o.status = 'pending' AND o.claim_token IS NULL
            AND o.held IS NULL AND o.id <> e.id) AS more,
    coalesce(extract(epoch FROM now() - e.started_at), 0)::float AS elapsed, g.prompt, g.extras, g.output,
    coalesce((e.app ->> 'hidden_from')::bigint <> e.user_id, false) AS hidden,
    %s::float AS taken_at
"""
_POSTED_AT_ONCE = "%s::varchar IS NOT NULL AND attempt = 0 AND NOT has_input_files"
# Seconds during which a claim marked as posted by `take` needs no re-check; well below the lease.
FRESH_SECONDS = 1.0


_TAKE_SQL = f"""
    WITH next AS ({scheduling.NEXT_SQL}), e AS (
        UPDATE workflows_execution SET claim_token = %s, worker = %s, attempt = attempt + 1,
            claimed_at = now(), lease_expires_at = now() + make_interval(secs => %s),
            suspect_lease = NULL,
            posted_at = CASE WHEN {_POSTED_AT_ONCE} THEN now() END,
            boot = CASE WHEN {_POSTED_AT_ONCE} THEN %s::varchar ELSE '' END
        FROM next WHERE workflows_execution.id = next.id RETURNING workflows_execution.*
    ), line AS (
        INSERT INTO workflows_logline (execution_id, level, message)
        SELECT id, 'INFO', 'Taken by worker ' || worker
            || CASE WHEN attempt > 1 THEN ', attempt ' || attempt ELSE '' END FROM e
    ), busy AS (
        UPDATE workflows_worker SET idle = false FROM e WHERE name = e.worker AND idle
    )
    SELECT {_CLAIM_FIELDS} FROM e JOIN workflows_graph g ON g.execution_id = e.id
    WHERE e.posted_at IS NOT NULL OR set_config('synchronous_commit', 'off', true) = 'off'
"""  # noqa: S608  (contains no user input)


def take(*, worker: str, boot_id: str | None = None, leave_to_idle: bool = False) -> Claim | None:
    """Claim the next execution for `worker`, or return None if none is available. One round trip.

    With `leave_to_idle`, executions that any other idle worker could take are left to it.

    Also marks the worker as not idle. With `boot_id`, a first attempt without input files is marked as posted
    to that process of ComfyUI in the same statement, and the commit is synchronous. Otherwise
    `mark_submitted` records the post later; until then a crash may lose the claim without harm, so the commit
    is asynchronous.
    """
    found = _claims(
        _TAKE_SQL,
        [
            *scheduling.next_parameters(worker=worker, leave_to_idle=leave_to_idle),
            uuid.uuid4(),
            worker,
            settings.LEASE_SECONDS,
            *[boot_id] * 3,
            time.monotonic(),
        ],
    )
    for taken in found:
        execution_log.copy_to_process_log(
            [taken.execution_id], [Line(f"Taken by worker {worker}, attempt {taken.attempt}")]
        )
        task_events.received(
            taken.execution_id,
            worker=worker,
            attempt=taken.attempt,
            description=task_events.describe(
                user=taken.username, priority=taken.priority, models=taken.models
            ),
        )
    return found[0] if found else None


def adopt(*, worker: str, held: Iterable[UUID]) -> list[Claim]:
    """Take over the claims that an earlier process of this backend left behind, each under a new token.

    `held` are the tokens this process already holds. The caller holds the backend's lock, so the previous
    owner has lost it: a frozen process that resumes finds its token invalid.

    Each adopted execution is from now on suspected of having killed its worker: see `losses`.
    """
    return _claims(
        f"""
        WITH free AS (
            SELECT id FROM workflows_execution
            WHERE worker = %s AND claim_token IS NOT NULL AND NOT (claim_token = ANY(%s))
            FOR NO KEY UPDATE SKIP LOCKED  -- what is locked for long is left to the reaper
        ), e AS (
            UPDATE workflows_execution SET claim_token = gen_random_uuid(), suspect_lease = NULL,
                losses = losses + 1,
                lease_expires_at = now() + make_interval(secs => %s)
            FROM free WHERE workflows_execution.id = free.id RETURNING workflows_execution.*
        ), line AS (
            INSERT INTO workflows_logline (execution_id, level, message)
            SELECT id, 'WARNING', 'Taken over by a new process of worker ' || worker FROM e
        )
        SELECT {_CLAIM_FIELDS} FROM e JOIN workflows_graph g ON g.execution_id = e.id ORDER BY e.claimed_at
        """,  # noqa: S608
        [worker, list(held), settings.LEASE_SECONDS, None],
    )


def _claims(sql: str, parameters: list[Any]) -> list[Claim]:
    return rows.as_dataclasses(
        Claim, rows.prepared(sql, parameters), prompt=json.loads, extras=json.loads, output=json.loads,
        running_at_once=quotas.running_at_once_of,
    )  # fmt: skip


def renew(*, tokens: Iterable[UUID]) -> set[UUID]:
    """Extend the leases of these claims, even if expired; return the tokens that are still valid.

    Rows locked by another session are skipped, so that one long lock does not cost the other claims their
    leases. A skipped claim is still valid: the reaper skips it too while it is locked.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH free AS (
                SELECT id FROM workflows_execution WHERE claim_token = ANY(%(tokens)s)
                FOR NO KEY UPDATE SKIP LOCKED
            ), renewed AS (
                UPDATE workflows_execution e
                SET lease_expires_at = now() + make_interval(secs => %(seconds)s)
                FROM free WHERE e.id = free.id
            )
            SELECT claim_token FROM workflows_execution WHERE claim_token = ANY(%(tokens)s)
            """,
            {"seconds": settings.LEASE_SECONDS, "tokens": list(tokens)},
        )
        return {row[0] for row in cursor.fetchall()}


def mark_submitted(claim: Claim, *, boot_id: str) -> bool:
    """Record that ComfyUI (its process `boot_id`) may have the prompt from now on. False: do not post it.

    `take` has already recorded this for claims that are posted at once. Such a claim is checked again once it
    is older than FRESH_SECONDS: a process that was frozen in the meantime may have lost it.
    """
    noted_at = claim.taken_at if claim.posted_at is not None else None
    if noted_at is not None and time.monotonic() - noted_at < FRESH_SECONDS:
        return True
    noted = rows.execute(
        """
        UPDATE workflows_execution SET posted_at = statement_timestamp(), boot = %s
        WHERE id = %s AND claim_token = %s AND status = 'pending'
        """,
        [boot_id, claim.execution_id, claim.token],
    )
    return noted == 1


def note_alone(claim: Claim, *, alone: bool) -> None:
    """Record whether the worker handles this execution and no other from now on. The commit is synchronous,
    because the record must survive a crash of the process.
    """
    rows.execute(
        "UPDATE workflows_execution SET handled_alone = %s WHERE id = %s AND claim_token = %s",
        [alone, claim.execution_id, claim.token],
    )


def held_by(claim: Claim) -> QuerySet[Execution]:
    return Execution.objects.filter(id=claim.execution_id, claim_token=claim.token)


def claim_holder(claim: Claim) -> Literal["ended", "waiting", "here", "elsewhere"]:
    """After losing a claim: who holds the execution now. "here" means this backend, under any claim."""
    row = Execution.objects.filter(id=claim.execution_id).values("status", "claim_token", "worker").first()
    if row is None or row["status"] not in ALIVE:
        return "ended"
    if row["claim_token"] is None:
        return "waiting"
    return "here" if row["worker"] == claim.worker else "elsewhere"
