"""PostgreSQL's clock is the one that leases and due times are judged by; here it is set back or forward.

Its clock cannot be set in a test, so that what it has written is moved the other way.
"""

from __future__ import annotations

import pytest
from django.db import connection
from django.db.models.functions import Now

from script.harness import graphs
from script.harness.waiting import wait_for
from workflows.fleet import registry
from workflows.models import Delivery, Execution, Held
from workflows.queue import claims, duties, requeueing
from workflows.worker import sweeps

WRITTEN = {
    "workflows_execution": ("lease_expires_at", "suspect_lease", "suspect_since", "held_until", "claimed_at"),
    "workflows_worker": ("heartbeat_at",),
    "workflows_duty": ("due_at",),
    "workflows_delivery": ("due_at",),
}


def set_clock(*, hours: float) -> None:
    with connection.cursor() as cursor:
        for table, columns in WRITTEN.items():
            changes = ", ".join(f"{column} = {column} - make_interval(secs => %s)" for column in columns)
            cursor.execute(f"UPDATE {table} SET {changes}", [hours * 3600] * len(columns))


@pytest.fixture
def quick(settings):
    settings.LEASE_SECONDS, settings.RENEW_SECONDS, settings.RESERVED_SECONDS = 0.5, 0.1, 0.5


def swept_until(condition, what: str) -> None:
    def sweep_and_look() -> object:
        sweeps.sweep()
        return condition()

    wait_for(sweep_and_look, seconds=40, what=what)


@pytest.mark.parametrize("posted", [False, True])
def test_a_dead_workers_claim_is_requeued_after_the_clock_is_set_back(rig, quick, posted):
    waiting = rig.submit(graphs.colour(1))
    claim = claims.take(worker="gone", boot_id="boot" if posted else None)
    assert claim is not None
    sweeps.sweep()  # duties are due again only later
    set_clock(hours=-1)
    swept_until(lambda: Execution.objects.get(id=waiting).claim_token is None, "it to be taken back")


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_live_worker_keeps_its_claim_when_the_clock_is_set(rig, hours):
    execution_id = rig.run_at_gate()
    set_clock(hours=hours)
    sweeps.sweep()
    assert requeueing.reap() == 0
    assert claims.renew(tokens=rig.slots.tokens()) == rig.slots.tokens() != set()
    assert requeueing.reap() == 0
    rig.comfyui.gate.set()
    rig.ends(execution_id, "completed")
    assert Execution.objects.get(id=execution_id).attempt == 1


def test_a_backoff_ends_though_the_clock_was_set_back(rig):
    waiting = rig.submit(graphs.colour(1))
    claim = claims.take(worker="gpu")
    assert claim is not None
    requeueing.requeue(claim, reason="a test", hold_seconds=5.0)
    set_clock(hours=-1)
    held = Execution.objects.filter(id=waiting, held=Held.BACKOFF)
    swept_until(lambda: not held.exists(), "the end of the backoff")


def test_duties_are_done_though_the_clock_was_set_back(db):
    assert duties.take_due({"reap": 3.0}) == {"reap"}
    assert duties.take_due({"reap": 3.0}) == set()
    set_clock(hours=-1)
    assert duties.take_due({"reap": 3.0}) == {"reap"}


def test_a_dead_worker_does_not_appear_alive_after_the_clock_is_set_back(rig, quick):
    set_clock(hours=-1)
    assert registry.others_alive(name="another") == ["gpu"]
    swept_until(lambda: not registry.others_alive(name="another"), "its silence to be noticed")


def test_a_new_webhook_is_due_though_the_clock_was_set_back(rig):
    body = {"workflow": graphs.colour(1), "webhook_url": "https://example.com/hook"}
    answer = rig.api.post("/workflows/execute", body)
    assert answer.status_code == 200, answer.content
    assert rig.cancel(answer.json()["execution_id"]) == 200
    assert Delivery.objects.filter(due_at__lte=Now()).exists()
    set_clock(hours=-1)
    assert not Delivery.objects.filter(due_at__lte=Now()).exists()
    swept_until(Delivery.objects.filter(due_at__lte=Now()).exists, "the webhook to be due")
