"""Batches: many executions that are submitted, tracked, cancelled and retried as one.

The queue itself only knows executions: each gets the place it would get if submitted individually.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Unpack

from django.db import transaction
from django.db.models import F

from accounts import idempotency
from accounts.models import User
from comfyserve.api.errors import Conflict, Detail, PayloadTooLarge, ValidationFailed
from comfyserve.near_names import did_you_mean
from comfyserve.outbound import client
from workflows.graph import parsing
from workflows.models import ALIVE, Batch, Execution, Status
from workflows.presentation import batch_selectors

from . import commands, scheduling, state_machine, submission
from .submission import Work

MAX_EXECUTIONS = 1000  # executions per batch
MAX_BYTES = 64 * 1024 * 1024  # all graphs of a batch together
MISTAKES_SHOWN = 20


def submit(
    *,
    user: User,
    works: Sequence[Work],
    app: str = "",
    output: Mapping[str, Any] | None = None,
    **options: Unpack[submission.Options],
) -> Batch:
    """Enqueue all executions or none. The webhook is sent once, when the last execution has ended.

    Raises what `submission.submit` raises, and PayloadTooLarge.
    """
    _check_size(works)
    works = [replace(work, output=output or {}) for work in works]
    webhook = options.pop("webhook", None)
    target = client.parse(webhook.url) if webhook else None
    batch = Batch(
        user=user,
        total=len(works),
        remaining=len(works),
        app=app,
        metadata=dict(options.get("metadata") or {}),
        webhook_url=webhook.url if webhook else "",
        webhook_host=f"{target.host}:{target.port}" if target else "",
        webhook_base=webhook.base if webhook else "",
    )
    prepared = submission.prepare(works, user=user)
    idempotency.begin_commit()
    with transaction.atomic():
        batch.save(force_insert=True)
        submission.submit_works(
            user=user, prepared=prepared, batch=batch, positions=range(len(works)), **options,
        )  # fmt: skip
    batch.refresh_from_db(fields=["created_at"])
    return batch


def _check_size(works: Sequence[Work]) -> None:
    size = max(len(json.dumps(work.workflow)) for work in works) * len(works)
    if size > MAX_BYTES:
        raise PayloadTooLarge(
            f"The batch has {size} bytes of graphs; at most {MAX_BYTES} are allowed. Split it"
        )


def values_of(*, inputs: Any = None, grid: Any = None) -> tuple[list[dict[str, Any]], str]:
    """Return the requested sets of input values and the request field they came from ("inputs" or "grid").

    A grid maps each name to a list of values and expands to every combination; the last name varies fastest.
    Raises ValidationFailed.
    """
    if (inputs is None) == (grid is None):
        raise ValidationFailed.of("inputs", "Send either `inputs`, a list, or `grid`, lists by name")
    if grid is not None:
        for name, values in grid.items():
            if not isinstance(values, list) or not values:
                raise ValidationFailed.of(f"grid.{name}", "A list with at least one value is needed")
        count = 1
        for values in grid.values():
            count *= len(values)
        _check_count(count, "grid")
        combined = itertools.product(*grid.values())
        return [dict(zip(grid, chosen, strict=True)) for chosen in combined], "grid"
    _check_count(len(inputs), "inputs")
    return list(inputs), "inputs"


def _check_count(count: int, path: str) -> None:
    if not 1 <= count <= MAX_EXECUTIONS:
        raise ValidationFailed.of(
            path, f"A batch has 1 to {MAX_EXECUTIONS} executions; this would be {count}"
        )


def works_of(workflow: Any, values: Sequence[Mapping[str, Any]], *, user: User, path: str) -> list[Work]:
    """Return one work per set of values, applied to the workflow; values are named `<node>.<input>`.

    Raises ValidationFailed for nodes that do not exist, with `path` as the prefix of the field.
    """
    graph = submission.read(workflow, user=user).graph
    mistakes: list[Detail] = []
    works = []
    for i, given in enumerate(values):
        prompt = {node_id: {**node, "inputs": dict(node["inputs"])} for node_id, node in graph.prompt.items()}
        paths = dict(graph.paths)
        for name, value in given.items():
            node_id, _, own = name.rpartition(".")
            where = f"{path}.{i}.{name}"
            if node_id not in prompt:
                mistakes.append(Detail("INVALID_VALUE", _no_node(node_id, own, prompt), where))
                continue
            prompt[node_id]["inputs"][own] = value
            paths[node_id, own] = where
        works.append(Work(prompt, parsing.Graph(prompt, paths, graph.node_paths), inputs=dict(given)))
        if len(mistakes) >= MISTAKES_SHOWN:
            break
    if mistakes:
        raise ValidationFailed(mistakes[:MISTAKES_SHOWN])
    return works


def _no_node(node_id: str, own: str, prompt: Mapping[str, Any]) -> str:
    if node_id:
        return f"The workflow has no node '{node_id[:100]}'"
    fitting = [f"{each}.{own}"[:100] for each, node in prompt.items() if own in node["inputs"]]
    return f"A value is named <node>.<input>, such as 3.seed{did_you_mean(fitting[:3])}"


# -- actions -----------------------------------------------------------------------------------------------
def cancel(batch: Batch, *, by: str = "its user") -> int:
    """Cancel all executions that have not ended; return their number. Raises Conflict if there are none."""
    ids = list(batch_selectors.executions_of(batch).filter(status__in=ALIVE).values_list("id", flat=True))
    cancelled = state_machine.cancel_all(ids, by=by)
    if not cancelled:
        raise Conflict("All executions of the batch have ended already")
    return cancelled


def retry(batch: Batch, *, user: User) -> int:
    """Resubmit the failed and cancelled executions at their positions in the batch; return their number.

    The original executions are kept but detached from the batch. Raises Conflict if there is none.
    """
    failed = batch_selectors.executions_of(batch).filter(status__in=[Status.FAILED, Status.CANCELLED])
    earlier = list(failed.select_related("graph"))
    if not earlier:
        raise Conflict("Nothing of the batch has failed")
    prepared = submission.prepare([commands.work_of(each) for each in earlier], user=user)
    idempotency.begin_commit()
    with transaction.atomic():
        # Locked in the order of docs/architecture.md.
        scheduling.lock_submissions(user_id=user.pk)
        # A concurrent request may have retried some of them in the meantime.
        mine = set(failed.order_by("id").select_for_update(of=("self",)).values_list("id", flat=True))
        batch = Batch.objects.select_for_update().get(id=batch.id)
        pairs = [(each, own) for each, own in zip(earlier, prepared, strict=True) if each.id in mine]
        if not pairs:
            raise Conflict("Nothing of the batch has failed")
        earlier = [each for each, _ in pairs]
        Execution.objects.filter(id__in=[each.id for each in earlier]).update(batch=None)
        Batch.objects.filter(id=batch.id).update(remaining=F("remaining") + len(earlier), completed_at=None)
        submission.submit_works(
            user=user,
            prepared=[own for _, own in pairs],
            priority=earlier[0].priority,
            timeout_minutes=earlier[0].timeout_minutes,
            metadata=batch.metadata,
            retried_from=[each.id for each in earlier],
            batch=batch,
            positions=[each.batch_position or 0 for each in earlier],
        )
    return len(earlier)
