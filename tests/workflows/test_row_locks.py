"""Another session holds the row lock of an execution, such as a frozen web process or a forgotten psql.

It may cost that execution some time. It must not cost a lease, a sweep, or any other execution.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

import psycopg
import pytest
from django.db import OperationalError, connection, transaction
from django.db.models.functions import Now
from psycopg.errors import IdleInTransactionSessionTimeout, LockNotAvailable, QueryCanceled

from accounts.models import User
from comfyserve.db.locks import AdvisoryLock
from files import storing
from files.models import Kind
from script.harness import graphs
from script.harness.waiting import wait_for
from tests.workflows.rig import gated
from workflows.fleet import registry
from workflows.metrics import store
from workflows.models import Batch, Execution, Flow, Output, Status, Worker
from workflows.queue import batches, claims, commands, duties, holds, requeueing, state_machine
from workflows.webhooks import dispatcher
from workflows.worker import sweeps
from workflows.worker.maintenance import Maintenance

T = TypeVar("T")


@contextmanager
def another_session() -> Iterator[psycopg.Connection[Any]]:
    """A client of the database outside of ours, with none of our time-outs."""
    given = connection.get_connection_params()
    given = {
        key: value for key, value in given.items() if key in ("dbname", "user", "password", "host", "port")
    }
    with psycopg.connect(**given) as session:
        yield session
        session.rollback()


@contextmanager
def locked(execution_id: Any) -> Iterator[None]:
    with another_session() as session:
        session.execute("SELECT 1 FROM workflows_execution WHERE id = %s FOR UPDATE", [execution_id])
        yield


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """What waits for a lock for longer in this thread's session fails; a busy machine may take its time."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('lock_timeout', %s, false)", [f"{seconds}s"])
    yield
    with connection.cursor() as cursor:
        cursor.execute("RESET lock_timeout")


def two_claims(rig: Any) -> tuple[claims.Claim, claims.Claim]:
    for seed in (1, 2):
        rig.submit(graphs.colour(seed))
    first, second = claims.take(worker="gpu"), claims.take(worker="gpu")
    assert first is not None
    assert second is not None
    return first, second


def lease(execution_id: UUID) -> Any:
    return Execution.objects.values_list("lease_expires_at", flat=True).get(id=execution_id)


def test_a_locked_row_costs_no_other_its_lease(rig):
    held, other = two_claims(rig)
    before = lease(other.execution_id)
    with locked(held.execution_id), limited(2):
        assert claims.renew(tokens=[held.token, other.token]) == {held.token, other.token}
    assert lease(other.execution_id) > before


def test_a_lost_claim_is_not_among_those_renewed(rig):
    lost, other = two_claims(rig)
    Execution.objects.filter(id=lost.execution_id).update(claim_token=None)
    assert claims.renew(tokens=[lost.token, other.token]) == {other.token}


def test_a_locked_row_does_not_stop_the_reaper(rig, settings):
    settings.RENEW_SECONDS = 0
    held, other = two_claims(rig)
    Execution.objects.update(lease_expires_at=Now() - timedelta(seconds=1))
    with locked(held.execution_id), limited(2):
        assert requeueing.reap() == 1
    assert Execution.objects.get(id=other.execution_id).claim_token is None
    assert Execution.objects.get(id=held.execution_id).claim_token == held.token


def test_an_execution_handled_alone_when_its_worker_died_counts_every_worker_that_it_killed(rig, settings):
    settings.RENEW_SECONDS = 0
    deadly, innocent = two_claims(rig)
    Execution.objects.update(lease_expires_at=Now() - timedelta(seconds=1), losses=1)
    Execution.objects.filter(id=deadly.execution_id).update(handled_alone=True)
    assert requeueing.reap() == 2
    assert "Given up after 2 attempts: " in (Execution.objects.get(id=deadly.execution_id).error or "")
    assert Execution.objects.get(id=innocent.execution_id).status == "pending"


def test_a_locked_row_does_not_stop_backoffs_from_ending(rig):
    held, other = two_claims(rig)
    for claim in (held, other):
        requeueing.requeue(claim, reason="a test", hold_seconds=0.001)
    with locked(held.execution_id), limited(2):
        assert wait_for(holds.lift_backoff) == 1


def test_a_worker_takes_over_what_it_can(rig):
    held, other = two_claims(rig)
    with locked(held.execution_id), limited(2):
        assert [claim.execution_id for claim in claims.adopt(worker="gpu", held=[])] == [other.execution_id]


def test_a_worker_continues_while_one_of_its_rows_is_locked(rig, settings):
    """The one that runs is held by a client, and so is the worker's own row: leases and work go on."""
    settings.RENEW_SECONDS = 0.3
    maintenance = Maintenance(rig.slots)
    maintenance.start()
    try:
        running = rig.run(gated())
        wait_for(lambda: rig.status(running) == "running", what="it to run")
        with another_session() as holder, another_session() as session:
            session.autocommit = True
            holder.execute("SELECT 1 FROM workflows_worker FOR UPDATE")
            holder.execute("SELECT 1 FROM workflows_execution WHERE id = %s FOR UPDATE", [running])
            backend = wait_for(lambda: locks_of_maintenance(session), what="the lock of the backend")
            # Heartbeats fail meanwhile, more than once; the lock stays with the same session.
            wait_for(lambda: waits_for_worker_row(session), what="a heartbeat that waits")
            wait_for(lambda: not waits_for_worker_row(session), what="it to give up")
            wait_for(lambda: waits_for_worker_row(session), what="the next one")
            assert locks_of_maintenance(session) == backend
            assert rig.slots.claiming
        rig.comfyui.gate.set()
        rig.ends(running, "completed")
    finally:
        maintenance.stop()


def locks_of_maintenance(session: psycopg.Connection[Any]) -> list[Any]:
    """Sessions that hold the lock of a backend."""
    return session.execute(
        "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = %s AND granted",
        [int(AdvisoryLock.BACKEND)],
    ).fetchall()


def waits_for_worker_row(session: psycopg.Connection[Any]) -> bool:
    found = session.execute(
        "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%workflows_worker%'"
    )
    return found.fetchone() is not None


@pytest.mark.parametrize("status", ["completed", "failed"])
def test_an_end_that_waits_for_its_batch_does_not_hold_its_flow(rig, status):
    """A cancellation locks the batch first: if both did not, each would wait for the other."""
    rig.api.post("/workflows/batch", {"workflow": graphs.colour(1), "inputs": [{"1.color": 1}]})
    claim = claims.take(worker="gpu")
    assert claim is not None
    user = {"user_id": claim.user_id}
    Flow.objects.create(priority=claim.priority, start=0, finish=0, **user)
    assert state_machine.begin(claim, total_steps=1)
    outcome = state_machine.Outcome(Status(status), error="too slow", gpu_seconds=1000.0)
    with another_session() as session, ThreadPoolExecutor(1) as pool:
        session.execute("SELECT FROM workflows_batch FOR UPDATE")
        done = pool.submit(and_close, lambda: state_machine.finish(claim, outcome))
        wait_for(lambda: waits_for(session), what="the end to wait for the batch")
        session.execute("SELECT FROM workflows_flow FOR UPDATE NOWAIT")
        session.rollback()
        assert done.result()
    assert Flow.objects.get(**user).finish > 0


def waits_for(holder: psycopg.Connection[Any]) -> bool:
    with another_session() as session:
        waiting = "SELECT FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))"
        return session.execute(waiting, [holder.info.backend_pid]).rowcount > 0


# -- one order of locks: docs/architecture.md --------------------------------------------------------------
def test_an_end_a_deletion_and_a_cancellation_of_everything_do_not_block_each_other(rig):
    """The cancellation waits for one row while another one ends, and locks that too once it goes on."""
    for seed in (1, 2, 3):
        rig.submit(graphs.colour(seed))
    claimed = [claims.take(worker="gpu") for _ in range(3)]
    first, ended, last = (claim for claim in claimed if claim is not None)
    assert state_machine.begin(ended, total_steps=1)
    assert state_machine.begin(last, total_steps=1)
    with another_session() as of_first, another_session() as of_last, ThreadPoolExecutor(3) as pool:
        lock = "SELECT 1 FROM workflows_execution WHERE id = %s FOR UPDATE"
        of_first.execute(lock, [first.execution_id])
        of_last.execute(lock, [last.execution_id])
        ids = [claim.execution_id for claim in (first, ended, last)]
        cancelled = pool.submit(and_close, lambda: state_machine.cancel_all(ids, by="its user"))
        wait_for(lambda: waits_for(of_first), what="the cancellation to wait for the first")
        assert state_machine.finish(ended, with_a_file(ended))
        finished = pool.submit(and_close, lambda: state_machine.finish(last, with_a_file(last)))
        wait_for(lambda: waiting_sessions() == 2, what="the end to wait for the last")
        of_first.rollback()
        wait_for(lambda: not waits_for(of_first), what="the cancellation to go on")
        wait_for(lambda: waiting_sessions() == 2, what="it to wait for the last, behind its end")
        row = Execution.objects.get(id=ended.execution_id)
        deleted = pool.submit(and_close, lambda: commands.delete(execution=row))
        wait_for(lambda: waiting_sessions() == 3, what="the deletion to wait for the cancellation")
        of_last.rollback()
        assert (finished.result(), cancelled.result(), deleted.result()) == (True, 1, None)
    assert set(Execution.objects.values_list("id", "status")) == {
        (first.execution_id, "cancelled"), (last.execution_id, "completed"),
    }  # fmt: skip


def test_a_retry_of_a_batch_and_its_cancellation_do_not_block_each_other(rig):
    """As above: the cancellation locks what has failed meanwhile and is retried."""
    values = [{"1.color": color} for color in (1, 2)]
    rig.api.post("/workflows/batch", {"workflow": graphs.colour(1), "inputs": values})
    batch = Batch.objects.get()
    claimed = [claim for claim in (claims.take(worker="gpu"), claims.take(worker="gpu")) if claim is not None]
    first, failed = sorted(claimed, key=lambda claim: claim.execution_id)
    with another_session() as of_first, another_session() as of_failed, ThreadPoolExecutor(2) as pool:
        of_first.execute("SELECT 1 FROM workflows_execution WHERE id = %s FOR UPDATE", [first.execution_id])
        cancelled = pool.submit(and_close, lambda: batches.cancel(batch))
        wait_for(lambda: waits_for(of_first), what="the cancellation to wait for the first")
        assert state_machine.finish(failed, state_machine.Outcome(Status.FAILED, error="a mistake"))
        of_failed.execute("SELECT 1 FROM workflows_execution WHERE id = %s FOR UPDATE", [failed.execution_id])
        of_first.rollback()
        wait_for(lambda: waits_for(of_failed), what="the cancellation to wait for the failed one")
        user = User.objects.get(id=failed.user_id)
        retried = pool.submit(and_close, lambda: batches.retry(batch, user=user))
        wait_for(lambda: waiting_sessions() == 2, what="the retry to wait for it too")
        of_failed.rollback()
        assert (cancelled.result(), retried.result()) == (1, 1)
    batch.refresh_from_db()
    assert (batch.total, batch.remaining) == (2, 1)


def with_a_file(claim: claims.Claim) -> state_machine.Outcome:
    content = str(claim.execution_id).encode()
    file = storing.store(user_id=claim.user_id, kind=Kind.OUTPUT, filename="a.txt", chunks=[content])
    return state_machine.Outcome(Status.COMPLETED, outputs=[Output(group="files", node_id="1", file=file)])


def and_close(do: Callable[[], T]) -> T:
    try:
        return do()
    finally:
        connection.close()


def waiting_sessions() -> int:
    """The number of those that wait for a lock."""
    with another_session() as session:
        waiting = (
            "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        return session.execute(waiting).rowcount


# -- time-outs of every connection -------------------------------------------------------------------------
def test_no_statement_no_lock_and_no_silent_transaction_is_without_end(db):
    with connection.cursor() as cursor:
        for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
            cursor.execute("SELECT setting::int FROM pg_settings WHERE name = %s", [name])
            assert 0 < cursor.fetchone()[0] <= 30_000, name


def test_waiting_for_a_held_lock_times_out(rig, django_db_blocker):
    held, _ = two_claims(rig)
    with locked(held.execution_id), transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout TO '50ms'")
        with pytest.raises(OperationalError) as caught:
            Execution.objects.filter(id=held.execution_id).update(priority="low")
        assert isinstance(caught.value.__cause__, LockNotAvailable)
        transaction.set_rollback(True)


def test_a_process_that_freezes_inside_a_transaction_loses_its_locks(rig):
    held, _ = two_claims(rig)
    frozen, go_on, errors = threading.Event(), threading.Event(), []

    def freeze() -> None:
        try:
            with transaction.atomic():
                Execution.objects.select_for_update().get(id=held.execution_id)
                with connection.cursor() as cursor:
                    cursor.execute("SET LOCAL idle_in_transaction_session_timeout TO '200ms'")
                frozen.set()
                go_on.wait(20)
                Execution.objects.filter(id=held.execution_id).update(priority="low")
        except Exception as exc:  # noqa: BLE001  (looked at below)
            errors.append(exc)
        finally:
            connection.close()

    thread = threading.Thread(target=freeze)
    thread.start()
    assert frozen.wait(20)
    assert Execution.objects.filter(id=held.execution_id).update(priority="high") == 1
    go_on.set()
    thread.join(timeout=10)
    [error] = errors
    assert isinstance(error, OperationalError), "whoever retries must see that the database was unavailable"
    assert isinstance(error.__cause__, IdleInTransactionSessionTimeout | psycopg.OperationalError)
    assert Execution.objects.get(id=held.execution_id).priority == "high"


def test_a_statement_that_takes_too_long_is_unavailability(db):
    with pytest.raises(OperationalError) as caught:
        sleep_in_the_database()
    assert isinstance(caught.value.__cause__, QueryCanceled)


@transaction.atomic
def sleep_in_the_database() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout TO '20ms'")
        cursor.execute("SELECT pg_sleep(5)")


# -- duties ------------------------------------------------------------------------------------------------
def test_a_task_runs_once_per_interval_whichever_process_asks(db):
    assert duties.take_due({"a": 60.0, "b": 60.0}) == {"a", "b"}
    assert duties.take_due({"a": 60.0, "b": 60.0, "c": 60.0}) == {"c"}
    with connection.cursor() as cursor:
        cursor.execute("UPDATE workflows_duty SET due_at = now() - interval '1 s' WHERE name = 'b'")
    assert duties.take_due({"a": 60.0, "b": 60.0, "c": 60.0}) == {"b"}


def test_a_task_that_another_process_is_starting_is_not_awaited(transactional_db):
    duties.take_due({"a": 0.0})
    with another_session() as session, limited(2):
        session.execute("UPDATE workflows_duty SET due_at = now() + interval '1 min' WHERE name = 'a'")
        assert duties.take_due({"a": 60.0}) == set()


def test_a_failing_task_does_not_stop_the_others(transactional_db, monkeypatch):
    done: list[str] = []

    def fails() -> None:
        raise KeyError("a mistake of ours")

    def note(name: str) -> Callable[[], None]:
        return lambda: done.append(name)

    names = (("one", 60.0, note("one")), ("broken", 60.0, fails), ("other", 60.0, note("other")))
    monkeypatch.setattr(sweeps, "DUTIES", names)
    sweeps.sweep()
    assert done == ["one", "other"]


def test_a_heartbeat_that_fails_does_not_cost_the_leases(rig, settings, monkeypatch):
    settings.RENEW_SECONDS = 0.1

    def fails(**_: Any) -> None:
        raise KeyError("a mistake of ours")

    monkeypatch.setattr(registry, "record_heartbeat", fails)
    maintenance = Maintenance(rig.slots)
    maintenance.start()
    try:
        execution_id = rig.run(gated())
        wait_for(lambda: rig.status(execution_id) == "running", what="it to run")
        before = lease(UUID(execution_id))
        wait_for(lambda: lease(UUID(execution_id)) not in (before, None), what="a renewal")
        assert rig.slots.claiming
        rig.comfyui.gate.set()
        rig.ends(execution_id, "completed")
    finally:
        maintenance.stop()
    assert Worker.objects.exists()


# -- advisory locks ----------------------------------------------------------------------------------------
def test_folding_and_choosing_webhooks_are_different_locks(transactional_db):
    store.add("executions_submitted", "normal")
    with another_session() as session, limited(2):
        session.execute("SELECT pg_advisory_xact_lock(%s, 0)", [int(AdvisoryLock.WEBHOOKS)])
        assert store.fold() == 1
        session.rollback()
        session.execute("SELECT pg_advisory_xact_lock(%s, 0)", [int(AdvisoryLock.FOLDING)])
        assert dispatcher.take(limit=1) == []


def test_no_code_takes_an_advisory_lock_by_a_number_of_its_own():
    from script.local.paths import ROOT

    folders = [path.parent.name for path in ROOT.glob("*/__init__.py")]
    assert {"workflows", "doors", "script", "tests"} <= set(folders)
    for folder in folders:
        for path in (ROOT / folder).rglob("*.py"):
            lines = path.read_text().splitlines()
            for number, line in enumerate(lines):
                if re.search(r"pg_(try_)?advisory_\w*lock\(", line):
                    around = "\n".join(lines[max(0, number - 3) : number + 3])
                    assert "AdvisoryLock" in around, f"{path}:{number + 1}: use comfyserve.db.locks"
