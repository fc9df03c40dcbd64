"""The failures listed in `docs/reliability.md`: what each costs, and what it does not.

Those that need real processes to die are in test_worker_death; those that depend on the moment, in
test_interleavings.
"""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from django.db import connection

from comfyserve import tickets
from files import backend
from files.errors import StorageUnavailable
from script.harness import graphs
from script.harness.stack import DATABASE
from script.harness.waiting import wait_for
from tests.scripted_comfyui.nodes import NodeClass
from tests.workflows.rig import Rig, serve_again
from tests.workflows.test_dependency_faults import no_redis, unavailable  # noqa: F401  (one is a fixture)
from workflows import tasks
from workflows.fleet import registry
from workflows.models import Execution, FailureCause
from workflows.queue import claims, holds, requeueing, scheduling
from workflows.worker import attempt, runner
from workflows.worker import backend as backends
from workflows.worker.maintenance import Maintenance
from workflows.worker.slots import Slots


def counts(execution_id: str) -> tuple[int, int]:
    """(attempts, faults)."""
    row = Execution.objects.get(id=execution_id)
    return row.attempt, row.faults


def failing(rig: Rig, *errors: Exception | None) -> graphs.Graph:
    """A workflow that raises these, run by run, and then no more."""
    left = list(errors)

    async def run(*_: Any) -> None:
        error = left.pop(0) if left else None
        if error is not None:
            raise error

    rig.comfyui.classes["Fails"] = NodeClass(run=run, returns=("IMAGE",))
    return {
        "1": {"class_type": "Fails", "inputs": {}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }


def out_of_memory() -> Exception:
    return RuntimeError("CUDA out of memory. Tried to allocate 20 GiB")


def disk_full() -> Exception:
    return OSError(28, "No space left on device")


# -- ComfyUI -----------------------------------------------------------------------------------------
def test_a_comfyui_that_is_not_up_yet_is_waited_for(rig):
    rig.comfyui.stop()
    wait_for(lambda: not rig.backend.reachable, what="it to be gone")
    rig.slots.claiming = False
    maintenance = Maintenance(rig.slots)
    maintenance.start()
    try:
        execution_id = rig.submit(graphs.colour(1))
        rig.comfyui.start()
        rig.ends(execution_id, "completed")
    finally:
        maintenance.stop()
    assert counts(execution_id) == (1, 0)


def test_a_hung_comfyui_loses_its_run_after_a_while(rig, monkeypatch, settings):
    settings.STALL_SECONDS = 1
    monkeypatch.setattr(runner, "IDLE_SECONDS", 0.2)
    monkeypatch.setattr(attempt, "FIRST_HOLD", 0.01)
    execution_id = rig.run_at_gate()
    rig.backend.client._timeout = 0.3
    rig.comfyui.faults.silent = True
    rig.comfyui.faults.hang |= {"/queue", f"/history/{execution_id}"}
    wait_for(lambda: counts(execution_id) == (1, 1), what="the run to be given up")
    rig.comfyui.faults.silent = False
    rig.comfyui.faults.hang.clear()
    rig.comfyui.restart()  # what else can an operator do
    assert rig.backend.session.wait_connected(20)
    holds.lift_backoff()
    assert rig.status(execution_id) == "pending"
    assert rig.cancel(execution_id) == 200


def test_a_run_left_by_a_stopped_worker_is_requeued_if_its_comfyui_is_gone(rig):
    execution_id = rig.run_at_gate()
    rig.slots.stop(drain_seconds=0)
    assert rig.slots.wait_empty(timeout=20)
    before = rig.backend.session.generation
    rig.comfyui.restart()
    rig.comfyui.gate.set()
    # The old connection may look alive for a moment.
    wait_for(lambda: rig.backend.session.generation > before, what="a new connection")
    assert rig.backend.session.wait_connected(20)
    rig.backend.refresh()
    rig.slots = Slots(rig.backend)
    rig.slots.claiming = True
    for claim in claims.adopt(worker="gpu", held=[]):
        rig.slots.resume(claim)
    rig.ends(execution_id, "completed")
    assert counts(execution_id) == (2, 1)


def test_out_of_memory_frees_everything_and_tries_once_more(rig):
    execution_id = rig.run(failing(rig, out_of_memory()))
    wait_for(lambda: counts(execution_id)[1] == 1, what="the fault")  # the same slot may have it again by now
    rig.slots.serve_in_thread()
    rig.ends(execution_id, "completed")
    [freed] = rig.comfyui.asked("POST", "/free")
    assert freed.body == {"unload_models": True, "free_memory": True}
    assert counts(execution_id) == (2, 1)


def test_out_of_memory_twice_fails_and_says_so(rig):
    execution_id = rig.run(failing(rig, out_of_memory(), out_of_memory()))
    wait_for(lambda: counts(execution_id)[1] == 1, what="the fault")  # the same slot may have it again by now
    rig.slots.serve_in_thread()
    body = rig.ends(execution_id, "failed")
    assert "the GPU ran out of memory" in body["error"]
    assert Execution.objects.get(id=execution_id).failure_cause == FailureCause.OUT_OF_MEMORY
    assert counts(execution_id) == (2, 1)


def test_claims_that_were_given_back_are_no_attempts(rig):
    execution_id = rig.submit(graphs.colour(1))
    reason = "its ComfyUI died"
    for fault in (False, False, True, True):
        claim = claims.take(worker="gpu")
        assert claim is not None
        assert requeueing.requeue(claim, reason=reason, fault=fault)
    assert rig.ends(execution_id, "failed")["error"] == f"Given up after 2 attempts: {reason}"
    assert counts(execution_id)[0] == 4


def test_a_reason_that_postgresql_cannot_store_still_ends_it(rig):
    execution_id = rig.submit(graphs.colour(1))
    for _ in range(2):
        claim = claims.take(worker="gpu")
        assert claim is not None
        assert requeueing.requeue(claim, reason="it said \0 and \ud800", fault=True)
    assert rig.ends(execution_id, "failed")["error"] == "Given up after 2 attempts: it said  and ?"


def test_memory_of_the_machine_is_not_called_the_gpus(rig):
    allocator = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")
    execution_id = rig.run(failing(rig, allocator, MemoryError("Unable to allocate 1.2 GiB for an array")))
    wait_for(lambda: counts(execution_id)[1] == 1, what="the fault")  # the same slot may have it again by now
    rig.slots.serve_in_thread()
    body = rig.ends(execution_id, "failed")
    assert "its machine ran out of memory (RAM" in body["error"]


def end_pause(rig: Rig) -> None:
    """As if so much time had passed."""
    assert not rig.backend.ready
    rig.backend._paused_until = time.monotonic()
    assert rig.backend.ready


def test_a_full_disk_at_comfyui_is_not_the_workflows_fault(rig, monkeypatch):
    monkeypatch.setattr(attempt, "FIRST_HOLD", 0.01)
    execution_id = rig.run(failing(rig, disk_full()))
    wait_for(lambda: rig.backend.faulty, what="the pause: no other run is tried on the full disk")
    wait_for(lambda: rig.status(execution_id) == "pending", what="it to go back")
    wait_for(holds.lift_backoff, what="the backoff to be over")
    end_pause(rig)
    rig.slots.serve_in_thread()
    rig.ends(execution_id, "completed")
    assert counts(execution_id) == (2, 0)


def test_a_gpu_that_fails_everything_is_paused_and_resumes(rig, monkeypatch):
    monkeypatch.setattr(attempt, "FIRST_HOLD", 0.01)
    rig.comfyui.faults.status["/prompt"] = 500
    ids = [rig.submit(graphs.colour(n)) for n in range(5)]
    rig.slots.serve()
    wait_for(lambda: rig.backend.faulty, what="it to rest")
    tried = len(rig.comfyui.submissions)
    assert tried == backends.FAULTS_UNTIL_PAUSE, "the queue is not eaten"
    rig.slots.serve()
    assert len(rig.comfyui.submissions) == tried, "nothing is taken while it rests"
    rig.comfyui.faults.status.clear()
    wait_for(lambda: all(rig.status(each) == "pending" for each in ids), what="them to go back")
    end_pause(rig)
    serve_again(rig)
    for execution_id in ids:
        rig.ends(execution_id, "completed")


def test_a_slot_that_skipped_locked_executions_queries_again(rig, monkeypatch):
    """`settle` locks what waits for a moment, and a claim skips locked rows."""
    first, second = rig.submit(graphs.colour(1)), rig.submit(graphs.colour(2))
    take, settle = claims.take, scheduling.settle
    taken: list[object] = []

    def skips_the_second(**options):
        if len(taken) == 1 and not moved.is_set():
            return None
        taken.append(take(**options))
        return taken[-1]

    moved = threading.Event()

    def moves(**options):
        settle(**options)
        moved.set()
        return 1

    monkeypatch.setattr(claims, "take", skips_the_second)
    monkeypatch.setattr(scheduling, "settle", moves)
    rig.slots.serve_in_thread()
    rig.ends(first, "completed")
    rig.ends(second, "completed")


# -- Valkey ------------------------------------------------------------------------------------------
def test_submissions_are_taken_without_redis_and_run(rig, no_redis, monkeypatch):  # noqa: F811
    monkeypatch.setattr(tickets, "_connection", tickets.connection_to(no_redis))
    execution_id = rig.submit(graphs.colour(1))
    maintenance = Maintenance(rig.slots)
    maintenance.start()  # it looks by itself
    try:
        rig.ends(execution_id, "completed")
    finally:
        maintenance.stop()


# -- PostgreSQL --------------------------------------------------------------------------------------
@pytest.fixture
def shut_database(stack):
    """A call that shuts the stack's database: all sessions are ended, no new ones let in, until `open`."""
    server = psycopg.connect(
        stack.database_url.replace(f"/{DATABASE}", "/postgres"), autocommit=True, connect_timeout=5
    )

    def let(in_: bool) -> None:
        server.execute(f"ALTER DATABASE {DATABASE} ALLOW_CONNECTIONS {in_}")
        if not in_:
            server.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [DATABASE]
            )

    with server:
        yield let
        let(True)


def test_a_database_outage_during_a_run_costs_nothing(gpu_worker, shut_database):
    person = gpu_worker.person("patient")
    execution_id = person.execute(graphs.sleep(3, seed=61))
    wait_for(
        lambda: person.get(f"/workflows/{execution_id}/status").json()["status"] == "running",
        what="it to run",
    )
    shut_database(False)
    answer = person.get(f"/workflows/{execution_id}")
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    shut_database(True)
    wait_for(lambda: person.get("/workflows").status_code == 200, what="the API to be well again")
    assert person.result(execution_id)["status"] == "completed"
    query = "SELECT attempt, faults FROM workflows_execution WHERE id = %s"
    assert gpu_worker.sql(query, execution_id) == [(1, 0)]


def test_a_ticket_that_meets_no_database_is_no_error(rig, monkeypatch):
    monkeypatch.setattr(tasks, "_gpu", SimpleNamespace(slots=rig.slots))
    monkeypatch.setattr(registry, "idle_others", unavailable)
    running = rig.run_at_gate()
    tasks.look_for_work()  # to be handed on, since a slot is taken
    rig.comfyui.gate.set()
    rig.ends(running, "completed")


# -- the storage -------------------------------------------------------------------------------------
def test_outputs_wait_for_the_storage_while_the_gpu_works(rig, monkeypatch):
    unavailable = threading.Event()
    unavailable.set()
    original = backend.put

    def put(*arguments: Any, **options: Any) -> None:
        if unavailable.is_set():
            raise StorageUnavailable
        original(*arguments, **options)

    monkeypatch.setattr(backend, "put", put)
    first, second = rig.run(graphs.colour(1)), rig.run(graphs.colour(2))
    rig.comfyui.wait_for(lambda: {first, second} <= set(rig.comfyui.history))
    wait_for(lambda: {rig.status(first), rig.status(second)} == {"running"}, what="both to have begun")
    unavailable.clear()
    for execution_id in (first, second):
        assert len(rig.ends(execution_id, "completed")["outputs"]["images"]) == 1
        assert counts(execution_id) == (1, 0)
    assert len(rig.comfyui.submissions) == 2


# -- clocks ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("hours", [-1, 1])
def test_a_worker_with_a_wrong_clock_keeps_its_claims(rig, monkeypatch, hours):
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + hours * 3600)
    execution_id = rig.run_at_gate()
    assert claims.renew(tokens=rig.slots.tokens()) == rig.slots.tokens() != set()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT extract(epoch FROM lease_expires_at - now()) FROM workflows_execution WHERE id = %s",
            [execution_id],
        )
        assert 10 < cursor.fetchone()[0] <= 20
    assert requeueing.reap() == 0
    rig.comfyui.gate.set()
    rig.ends(execution_id, "completed")
