"""Submit executions. What can be done with them afterwards is in `commands`."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict, Unpack
from uuid import UUID

from django.conf import settings

from accounts import idempotency, quotas, storage_use
from accounts.models import User
from comfyserve.api import request_ids
from comfyserve.api.errors import Detail, Unavailable, ValidationFailed
from comfyserve.db import rows
from comfyserve.ids import uuid7
from workflows.fleet import registry
from workflows.graph import formats, input_files, links, node_info, node_policy, parsing
from workflows.models import Batch, Execution, Held, Level, Priority, Status
from workflows.presentation import selectors
from workflows.webhooks import outbox

from . import (
    execution_log,
    holds,
    matching,
    new_rows,
    partner_keys,
    queue_positions,
    scheduling,
    state_machine,
)
from .execution_log import Line

logger = logging.getLogger(__name__)

MISTAKES_SHOWN = 100
ROWS_AT_ONCE = 100  # rows per statement: each contains a whole graph


class QueueFull(Unavailable):
    """The maximum number of pending executions, over all users, is reached."""


class Options(TypedDict, total=False):
    """Options common to all submissions; `webhook` is already validated."""

    priority: str  # normal by default
    timeout_minutes: int | None  # None: DEFAULT_TIMEOUT_MINUTES
    metadata: Mapping[str, Any] | None
    metadata_text: str  # the metadata exactly as it was sent
    webhook: outbox.WebhookRequest | None


@dataclass(frozen=True)
class Accepted:
    execution: Execution
    estimated_seconds: float | None
    note: str | None  # a notice for the user, such as that no worker is running

    @property
    def queue_position(self) -> int | None:
        """Queried on access."""
        return queue_positions.of([self.execution.id]).get(self.execution.id)


@dataclass(frozen=True)
class Work:
    """What one execution runs: the workflow as submitted, and the graph parsed from it.

    `app` and `inputs` are stored for results of app and batch runs. `lent` are other users' files that the
    workflow may use because they came with it.
    """

    workflow: Any
    graph: parsing.Graph
    app: dict[str, Any] | None = None
    inputs: dict[str, Any] | None = None
    lent: frozenset[str] = frozenset()
    warnings: Sequence[str] = ()  # from parsing; written to the execution log
    extras: Mapping[str, Any] = field(default_factory=dict)  # sent to ComfyUI alongside the prompt
    output: Mapping[str, Any] = field(default_factory=dict)  # requested output options


@dataclass(frozen=True)
class Prepared:
    """A validated work. Nothing is in the database yet except the files it came with."""

    work: Work
    kind: str
    used: list[parsing.ModelUse]
    taken: input_files.Taken
    suited: matching.Suited


def submit(
    *,
    user: User,
    workflow: Any,
    retried_from: Execution | None = None,
    extra_data: Mapping[str, Any] | None = None,
    partial_execution_targets: Sequence[str] | None = None,
    execution_id: UUID | None = None,
    output: Mapping[str, Any] | None = None,
    **options: Unpack[Options],
) -> Accepted:
    """Enqueue a workflow. `extra_data` is passed to ComfyUI unchanged, its partner keys are stored encrypted
    until the execution ends; with `partial_execution_targets` only these output nodes are run.
    `execution_id` is an id chosen by the client. `output` are the requested output options.

    Raises ValidationFailed for structural errors, denied nodes and paths, LimitExceeded for a quota,
    Unavailable if the whole queue is full, IntegrityError if `execution_id` is in use.
    """
    work = read(workflow, user=user)
    extras = _extras(work.graph, extra_data, partial_execution_targets)
    return submit_work(
        user=user, work=replace(work, extras=extras, output=output or {}),
        retried_from=retried_from, execution_id=execution_id, **options,
    )  # fmt: skip


def _extras(
    graph: parsing.Graph, extra_data: Mapping[str, Any] | None, targets: Sequence[str] | None
) -> dict[str, Any]:
    """Raises ValidationFailed for targets that are not nodes of the graph, and for malformed keys."""
    wrong = [
        Detail(
            "INVALID_VALUE", f"The workflow has no node '{target[:100]}'", f"partial_execution_targets.{i}"
        )
        for i, target in enumerate(targets or ())
        if target not in graph.prompt
    ]
    if wrong:
        raise ValidationFailed(wrong)
    plain, keys = partner_keys.split(extra_data or {})
    given = {
        "extra_data": plain,
        "partial_execution_targets": list(targets or ()),
        partner_keys.FIELD: keys,
    }
    return {name: value for name, value in given.items() if value}


def read(workflow: Any, *, user: User) -> Work:
    """Parse a workflow in any accepted format. Raises as `formats.read` does."""
    reading = formats.read(workflow, user=user, max_nodes=settings.MAX_NODES)
    return Work(reading.source, reading.graph, warnings=reading.warnings)


def submit_work(
    *,
    user: User,
    work: Work,
    retried_from: Execution | None = None,
    execution_id: UUID | None = None,
    **options: Unpack[Options],
) -> Accepted:
    """Enqueue a work that is already parsed. Raises as `submit` does."""
    [execution], [known] = submit_works(
        user=user, prepared=prepare([work], user=user),
        retried_from=[retried_from.id if retried_from else None],
        chosen_ids=[execution_id] if execution_id else [], **options,
    )  # fmt: skip
    return Accepted(
        execution=execution,
        estimated_seconds=known,
        note=note_for_submitter(),
    )


def note_for_submitter() -> str | None:
    if registry.cached_any_alive():
        return None
    return "No GPU worker is running; the workflow waits until one is"


def submit_works(
    *,
    user: User,
    prepared: Sequence[Prepared],
    retried_from: Sequence[UUID | None] = (),
    batch: Batch | None = None,
    positions: Sequence[int] = (),
    chosen_ids: Sequence[UUID | None] = (),
    **options: Unpack[Options],
) -> tuple[list[Execution], list[float | None]]:
    """Enqueue all or none; return the executions and the known duration of each in seconds (or None).

    `prepared` comes from `prepare`, called outside any transaction. `retried_from`, `positions` (within
    `batch`) and `chosen_ids` have one entry per prepared work, or are empty. The number of statements grows
    only with the number of ROWS_AT_ONCE chunks.
    """
    wanted = options.get("priority", Priority.NORMAL)
    priority = options["priority"] = scheduling.lowest(wanted, quotas.highest_priority(user=user))
    limited = quotas.runs_are_limited(user=user)
    idempotency.begin_commit()
    executions = [
        Execution(
            id=chosen or uuid7(), user=user, retried_from_id=earlier, batch_position=position,
            batch_id=batch.id if batch else None, held=Held.QUOTA if limited else None,
            **_columns(each, options),
        )
        for each, earlier, position, chosen in zip(
            prepared, _or_none(retried_from, prepared), _or_none(positions, prepared),
            _or_none(chosen_ids, prepared), strict=True,
        )
    ]  # fmt: skip
    # One round trip without quotas. The lock must be held from before the places are computed until the
    # commit: otherwise parallel submissions would exceed quotas and get the same place.
    with rows.pipelined_transaction():
        scheduling.lock_submissions(user_id=user.pk)
        _check_room(user, prepared, options)
        read_places = _write(executions, prepared, webhook=options.get("webhook"))
        if limited:
            holds.lift_quota(user_id=user.pk)
    known = read_places()
    for execution, each in zip(executions, prepared, strict=True):
        nodes, id_ = len(each.work.graph.prompt), str(execution.id)
        logger.info("Accepted, %d nodes, priority %s", nodes, priority, extra={"execution_id": id_})
    return executions, known


def _columns(each: Prepared, options: Options) -> dict[str, Any]:
    """Columns of the execution's row from the work and the options."""
    webhook = options.get("webhook")
    return {
        "priority": options["priority"],
        "timeout_minutes": options.get("timeout_minutes") or settings.DEFAULT_TIMEOUT_MINUTES,
        "request_id": request_ids.current() or "",
        "has_input_files": any(input_files.marked(each.taken.prompt)),
        "kind": each.kind,
        "models_used": [{"name": use.name, "type": use.type} for use in each.used],
        "lacking": each.suited.lacking,
        "metadata": dict(options.get("metadata") or {}),
        "metadata_text": options.get("metadata_text", ""),
        "webhook_url": webhook.url if webhook else "",
        "app": each.work.app,
    }


def _write(
    executions: Sequence[Execution], prepared: Sequence[Prepared], *, webhook: outbox.WebhookRequest | None
) -> Callable[[], list[float | None]]:
    """Write the rows with all their side effects. What it returns is called after the commit: it completes
    the executions with their places, and returns the known durations.
    """
    graphs = [_graph(each) for each in prepared]
    parts = [slice(begin, begin + ROWS_AT_ONCE) for begin in range(0, len(executions), ROWS_AT_ONCE)]
    written = [new_rows.insert_later(executions[part], graphs[part]) for part in parts]
    able = sorted({worker for each in prepared for worker in each.suited.able})
    state_machine.accepted(executions, able=able)
    for execution, each in zip(executions, prepared, strict=True):
        execution_log.write([execution.id], [Line(text, Level.WARNING) for text in each.work.warnings])
    input_files.pin_all(
        [(execution.id, each.taken) for execution, each in zip(executions, prepared, strict=True)]
    )
    if webhook:
        for execution in executions:
            outbox.register(execution, webhook)
    return lambda: [known for read in written for known in read()]


def _graph(each: Prepared) -> new_rows.GraphColumns:
    return {
        "submitted": each.work.workflow,
        "prompt": each.taken.prompt,
        "inputs": each.work.inputs,
        "extras": dict(each.work.extras),
        "output": dict(each.work.output),
    }


def _or_none(given: Sequence[Any], prepared: Sequence[Prepared]) -> Sequence[Any]:
    return given or [None] * len(prepared)


def prepare(works: Sequence[Work], *, user: User) -> list[Prepared]:
    """Validate the works and store their files; takes as long as the storage does.

    Must not be called inside a transaction. Raises ValidationFailed, LimitExceeded and StorageUnavailable.
    """
    known = node_info.everywhere()
    wrong = [mistake for work in works for mistake in links.mistakes(work.graph, known)]
    wrong = wrong or [
        mistake for work in works for mistake in node_policy.mistakes(work.graph, user_id=user.pk)
    ]
    if wrong:
        raise ValidationFailed(wrong[:MISTAKES_SHOWN])
    taken = input_files.take_all([(work.graph, work.lent) for work in works], user=user)
    suited: dict[Any, matching.Suited] = {}
    prepared = []
    for work, own in zip(works, taken, strict=True):
        prompt = work.graph.prompt
        used = parsing.models_of(prompt)
        needs = (frozenset(node["class_type"] for node in prompt.values()), frozenset(used))
        if needs not in suited:
            suited[needs] = matching.suited(prompt, used)
        prepared.append(Prepared(work, parsing.kind_of(prompt), used, own, suited[needs]))
    return prepared


def _graph_size(work: Work) -> int:
    """Bytes of what is stored with the graph, as JSON."""
    return len(json.dumps([work.workflow, work.inputs, dict(work.extras), dict(work.output)]))


def _check_room(user: User, prepared: Sequence[Prepared], options: Options) -> None:
    count = len(prepared)
    counted = quotas.waiting_is_limited(user=user)
    waiting = Execution.objects.filter(user=user, status=Status.PENDING).count() if counted else 0
    quotas.check_submission(user=user, waiting=waiting, adding=count)
    if quotas.storage_is_limited(user=user):
        size = count * 2 * len(options.get("metadata_text", ""))  # as it was sent, and as JSON
        size += sum(_graph_size(each.work) for each in prepared)
        storage_use.check(user=user, adding=size)
    if selectors.cached_pending_count() + count > settings.MAX_PENDING:
        raise QueueFull("The queue is full; try again later", retry_after=60)
