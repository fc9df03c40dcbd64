"""The database fails as during a failover, at critical moments."""

from __future__ import annotations

import threading
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction
from django.db.models.functions import Now

from comfyserve.api.errors import as_api_error
from comfyserve.db import connections
from script.harness import graphs
from script.harness.waiting import wait_for
from tests.workflows.rig import Rig, before, sleep
from tests.workflows.test_row_locks import another_session
from workflows.fleet import registry
from workflows.models import Execution, Worker
from workflows.queue import claims, requeueing, state_machine
from workflows.worker import attempt, input_transfer

STATES = {
    "read_only_sql_transaction": "25006",
    "idle_in_transaction_session_timeout": "25P03",
    "transaction_timeout": "25P04",
    "admin_shutdown": "57P01",
    "cannot_connect_now": "57P03",
    "query_canceled": "57014",
    "too_many_connections": "53300",
    "disk_full": "53100",
    "serialization_failure": "40001",
    "deadlock_detected": "40P01",
    "lock_not_available": "55P03",
}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES.keys())
def test_temporary_database_errors_are_one_kind_of_error(db, state):
    with pytest.raises(connections.UNAVAILABLE) as caught, transaction.atomic():
        raise_in_the_database(state)
    error = as_api_error(caught.value)
    assert error is not None
    assert error.status == 503


@pytest.mark.parametrize("state", ["22012", "25P02", "42501", "XX000"])
def test_permanent_database_errors_are_not(db, state):
    with pytest.raises(Exception, match="made by a test") as caught, transaction.atomic():
        raise_in_the_database(state)
    assert not isinstance(caught.value, connections.UNAVAILABLE)


def raise_in_the_database(state: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"DO $$ BEGIN RAISE EXCEPTION 'made by a test' USING ERRCODE = '{state}'; END $$")


def test_work_that_fails_for_an_hour_is_abandoned(db, monkeypatch):
    now = 0.0
    monkeypatch.setattr(connections, "time", SimpleNamespace(monotonic=lambda: now))
    tried = []

    def fail() -> None:
        nonlocal now
        tried.append(now)
        now += 2000.0
        raise OperationalError("unavailable")

    with pytest.raises(OperationalError):
        connections.retry_until_available(fail)
    assert tried == [0.0, 2000.0]


# -- read-only, as in a failover ---------------------------------------------------------------------------
@pytest.fixture
def read_only(transactional_db):
    """A switch for the whole server."""

    def switch(on: bool) -> None:
        with another_session() as session:
            session.autocommit = True
            session.execute(f"ALTER SYSTEM SET default_transaction_read_only = {'on' if on else 'off'}")
            session.execute("SELECT pg_reload_conf()")
        wait_for(lambda: is_read_only() == on, what="the server to read its settings")

    yield switch
    switch(False)
    with another_session() as session:
        session.autocommit = True
        session.execute("ALTER SYSTEM RESET default_transaction_read_only")


def is_read_only() -> bool:
    with another_session() as session:
        [(value,)] = session.execute("SHOW default_transaction_read_only").fetchall()
    return value == "on"


@pytest.mark.parametrize("point", ["begin", "finish"])
def test_a_read_only_database_during_a_run_only_delays_it(rig, monkeypatch, read_only, point):
    before(monkeypatch, state_machine, point, lambda *_, **__: read_only(True))
    tries, original = [], getattr(state_machine, point)

    def count(*args: Any, **given: Any) -> Any:
        tries.append(True)
        return original(*args, **given)

    monkeypatch.setattr(state_machine, point, count)
    execution_id = rig.run(sleep(0.3))
    wait_for(lambda: len(tries) > 2, what="it to be tried again")
    read_only(False)
    rig.ends(execution_id, "completed")
    row = Execution.objects.get(id=execution_id)
    assert (row.attempt, row.faults, row.tries) == (1, 0, 0)
    assert len(rig.comfyui.submissions) == 1
    rig.is_clear()
    assert rig.slots.tokens() == set()


# -- no slot and no claim is held by nobody ----------------------------------------------------------------
def test_a_runner_that_the_database_breaks_gives_its_execution_back_without_blame(rig, monkeypatch):
    def unavailable(*_: Any, **__: Any) -> None:
        raise OperationalError("unavailable")

    before(monkeypatch, input_transfer, "prepare", unavailable)
    execution_id = rig.run(sleep(0.1))
    row = wait_for(
        lambda: Execution.objects.filter(id=execution_id, held="backoff").first(), what="its return"
    )
    assert row.faults == 0
    rig.is_clear()
    assert rig.slots.tokens() == set()


def test_a_requeue_that_breaks_too_leaks_neither_slot_nor_claim(rig, monkeypatch):
    def broken(*_: Any, **__: Any) -> None:
        raise KeyError("a mistake of ours")

    monkeypatch.setattr(input_transfer, "prepare", broken)
    monkeypatch.setattr(requeueing, "requeue", broken)
    rig.run(sleep(0.1))
    assert rig.slots.wait_empty(timeout=10)
    wait_for(lambda: rig.slots.tokens() == set(), what="the claim to be let go")
    assert rig.backend.orphans.is_set()


# -- a worker that stops -----------------------------------------------------------------------------------
def test_a_stopping_worker_does_not_wait_for_a_lost_claim_to_be_taken(rig):
    execution_id = rig.run(sleep(30))
    wait_for(lambda: rig.status(execution_id) == "running", what="it to run")
    looked, original = threading.Event(), rig.backend.client.whereabouts

    def whereabouts(prompt_id: str) -> Any:
        looked.set()
        return original(prompt_id)

    rig.backend.client.whereabouts = whereabouts
    Execution.objects.filter(id=execution_id).update(status="pending", claim_token=None, held="backoff")
    rig.slots.lost(rig.slots.tokens())
    assert looked.wait(20), "the runner waits for somebody to take it"
    rig.slots.stop(drain_seconds=1)
    assert rig.slots.wait_empty(timeout=20)


def test_a_run_that_is_not_claimed_again_is_cleared_after_a_while(rig, monkeypatch):
    monkeypatch.setattr(attempt, "LEAVE_SECONDS", 0.5)
    execution_id = rig.run(sleep(60))
    wait_for(lambda: rig.status(execution_id) == "running", what="it to run")
    Execution.objects.filter(id=execution_id).update(status="pending", claim_token=None, held="backoff")
    rig.slots.lost(rig.slots.tokens())
    assert rig.slots.wait_empty(timeout=10)
    rig.comfyui.wait_for(lambda: rig.comfyui.running is None)


# -- tries and idle others ---------------------------------------------------------------------------------
def test_requeues_by_paused_workers_do_not_count_as_tries(rig, monkeypatch):
    """Three answers of 500 to one graph fail it; being given back by paused workers does not count."""
    monkeypatch.setattr(attempt, "FIRST_HOLD", 0.01)
    rig.comfyui.faults.status["/prompt"] = 500
    execution_id = rig.submit(graphs.colour(1))
    for _ in range(4):
        claim = claims.take(worker="gpu")
        assert claim is not None
        requeueing.requeue(claim, reason="its worker is paused")
    rig.slots.serve_in_thread()
    row = wait_for(
        lambda: Execution.objects.filter(id=execution_id, held="backoff").first(), what="its return"
    )
    assert (row.status, row.attempt, row.tries) == ("pending", 5, 1)


@pytest.fixture
def idle_other(rig: Rig) -> str:
    Worker.objects.create(name="other", host="h", pid=1, url="", reachable=True, idle=True)
    return "other"


def test_an_execution_is_left_to_an_idle_worker_that_may_claim_it(rig, idle_other):
    rig.submit(graphs.colour(1))
    assert claims.take(worker="gpu", leave_to_idle=True) is None


def test_an_execution_that_no_idle_worker_may_claim_is_staged(rig, idle_other):
    execution_id = rig.submit(graphs.colour(1))
    Execution.objects.update(excluded=[idle_other])
    claim = claims.take(worker="gpu", leave_to_idle=True)
    assert claim is not None
    assert str(claim.execution_id) == execution_id
    claims.mark_submitted(claim, boot_id="")
    assert not registry.is_wanted_elsewhere(claim.execution_id, name="gpu")


def test_one_idle_worker_brings_back_one_staged_execution_of_a_fleet(rig, idle_other):
    staged = []
    for seed in (1, 2, 3):
        rig.submit(graphs.colour(seed))
        claim = claims.take(worker=f"gpu-{seed}")
        assert claim is not None
        claims.mark_submitted(claim, boot_id="")
        staged.append(claim)
    wanted = [registry.is_wanted_elsewhere(each.execution_id, name=each.worker) for each in staged]
    assert wanted == [True, False, False]


# -- what waits for long -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("columns", "fails"),
    [
        ({}, True),
        ({"held": "quota"}, False),
        ({"held_until": Now()}, False),
        ({"claimed_at": Now()}, False),
    ],
    ids=["waited", "held by a quota", "let go by a quota just now", "came back just now"],
)
def test_only_work_that_no_worker_could_take_for_so_long_is_stale(rig, columns, fails):
    rig.submit(graphs.colour(1))
    Execution.objects.update(created_at=Now() - timedelta(hours=49), **columns)
    assert requeueing.fail_stale(older_than=timedelta(hours=48)) == int(fails)
