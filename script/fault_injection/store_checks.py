"""The invariants of the stores after the faults, and what the faults cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import requests

from script.fault_injection.clients import Ledger
from script.fault_injection.cluster import Cluster, comfyui_lines
from script.fault_injection.leak_checks import leaks
from script.harness.waiting import wait_for

SWEEP = """
from datetime import timedelta
from files import cleaning
list(cleaning.orphans(grace=timedelta(0)))
"""
KEYS = """
    SELECT key FROM files_file
    UNION SELECT thumbnail_key FROM files_file WHERE thumbnail_key NOT IN ('', 'none')
"""
THUMBNAIL_SECONDS = 15  # from the end of an execution until its thumbnails have their rows


def settle(cluster: Cluster, ledger: Ledger, *, seconds: float) -> None:
    """Until every accepted execution has ended and been reported, or the timeout."""
    alive = "SELECT count(*) FROM workflows_execution WHERE status IN ('pending', 'running')"
    waiting = "SELECT count(*) FROM workflows_delivery WHERE state = 'waiting'"
    for query, what in ((alive, "the end of all executions"), (waiting, "all webhooks to be delivered")):
        try:
            wait_for(partial(_is_none, cluster, query), seconds=seconds, what=what)
        except AssertionError as exc:
            ledger.complain(str(exc))


def _is_none(cluster: Cluster, query: str) -> bool:
    return cluster.sql(query) == [(0,)]


def broken_behind(cluster: Cluster) -> list[str]:
    return [*_of_storage(cluster), *_of_comfyui(cluster), *leaks(cluster)]


def _of_storage(cluster: Cluster) -> Iterator[str]:
    """After the sweep, which does not wait a day here: exactly as many files as the rows name."""
    if missing := _named(cluster) - _stored(cluster):
        yield f"{len(missing)} files are gone from the storage: {sorted(missing)[:5]}"
    without_row = _without_row(cluster)
    print(f"  {len(without_row)} stored files have no row and are left to the sweep")
    cluster.stack.manage("shell", "-c", SWEEP)
    try:
        # Thumbnails are made after the end of an execution: one may be stored whose row comes next.
        wait_for(lambda: not _without_row(cluster), seconds=THUMBNAIL_SECONDS)
    except AssertionError:
        left = sorted(_without_row(cluster))
        yield f"{len(left)} files without a row are left in the storage: {left[:5]}"


def _without_row(cluster: Cluster) -> set[str]:
    stored = _stored(cluster)  # before the rows: what is stored later has none yet
    return stored - _named(cluster)


def _stored(cluster: Cluster) -> set[str]:
    return {entry.key for entry in cluster.bucket.objects.all()}


def _named(cluster: Cluster) -> set[str]:
    return {key for (key,) in cluster.sql(KEYS)}


def _of_comfyui(cluster: Cluster) -> Iterator[str]:
    for comfyui in cluster.comfyuis:
        state = requests.get(f"{comfyui.url}/queue", timeout=10).json()
        left = [item[1] for item in state["queue_running"] + state["queue_pending"]]
        if left:
            yield f"{comfyui.url} still has {left}"


# -- cost ----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Cost:
    runs: int  # on a GPU, started
    useful: int  # executions that ended by the result of their run
    cancelled: int  # by their user, after they had started
    posts: int  # to ComfyUI
    unavoidable: dict[str, int]  # why -> runs that no engine could have saved

    @property
    def in_vain(self) -> int:
        return self.runs - self.useful - self.cancelled


# What their log says of runs that were lost with what they ran on.
LOST_WITH_IT = {
    "a full disk": "the disk of its ComfyUI is full",
    "a worker down for longer than its claim is reserved": "its worker and ComfyUI stopped responding",
    "a ComfyUI that died": "its ComfyUI died",
    "a ComfyUI that died and was started again": "%ComfyUI was restarted and lost it",
}


# They count as cancelled while running only if their start was recorded, some time after it.
CANCELLED_EARLY = "a user who cancelled it after its post and before its start was recorded (at most)"
CANCELLED_UNRECORDED = """
    SELECT count(*) FROM workflows_execution
    WHERE status = 'cancelled' AND started_at IS NULL AND posted_at IS NOT NULL
"""


def _unavoidable(cluster: Cluster) -> dict[str, int]:
    query = "SELECT count(*) FROM workflows_logline WHERE message LIKE %s"
    lost = {why: cluster.sql(query, f"Back to the queue: {text}")[0][0] for why, text in LOST_WITH_IT.items()}
    return lost | {CANCELLED_EARLY: cluster.sql(CANCELLED_UNRECORDED)[0][0]}


def cost_of(cluster: Cluster) -> Cost:
    """Runs are counted in ComfyUI's own log, and lost ones in ours."""
    [(died,)] = cluster.sql("SELECT coalesce(sum(faults), 0)::int FROM workflows_execution")
    counts = Counter(
        dict(
            cluster.sql(
                "SELECT status, count(*) FROM workflows_execution WHERE started_at IS NOT NULL GROUP BY 1"
            )
        )
    )
    [(given_up,)] = cluster.sql("SELECT count(*) FROM workflows_execution WHERE failure_cause = 'given_up'")
    return Cost(
        runs=comfyui_lines(cluster, "Prompt executed in") + died + given_up,
        useful=counts["completed"] + counts["failed"] - given_up,
        cancelled=counts["cancelled"],
        posts=comfyui_lines(cluster, "got prompt"),
        unavoidable=_unavoidable(cluster),
    )
