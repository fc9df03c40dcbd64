"""Faults around the engine: Redis frozen, the database unavailable, ComfyUI slow or failing.

None of it may cost an execution: nothing is lost, run twice, or blamed on its user.
"""

from __future__ import annotations

import socket
import threading
import time
from datetime import datetime
from typing import Any
from uuid import uuid4

import pytest
from django.db import OperationalError, connection, transaction

from accounts.models import User, UserLimits
from comfyserve import tickets
from comfyui import Client, Unreachable
from files import backend, storing
from files.errors import StorageUnavailable
from files.models import File
from script.harness import graphs
from script.harness.waiting import wait_for
from tests.factories import Api, make_user
from tests.scripted_comfyui.nodes import PNG, NodeClass
from tests.workflows.rig import Rig, after, before, gated, sleep
from workflows import notify
from workflows.fleet import registry
from workflows.models import Execution, Held, LogLine, ObjectInfo
from workflows.queue import holds, state_machine
from workflows.worker import attempt, maintenance, runner, slots
from workflows.worker import backend as backends
from workflows.worker.maintenance import Maintenance


def unavailable(*_: Any, **__: Any) -> Any:
    raise OperationalError("the database is unavailable")


# -- Redis -------------------------------------------------------------------------------------------
@pytest.fixture(params=["frozen", "gone"])
def no_redis(request):
    """The address of one that takes connections and never answers, or of none."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"redis://127.0.0.1:{server.getsockname()[1]}/0"
        if request.param == "gone":
            server.close()
        yield url


def test_a_ticket_waits_for_no_redis(no_redis, monkeypatch):
    monkeypatch.setattr(tickets, "_connection", tickets.connection_to(no_redis))
    sender = threading.Thread(target=notify.ticket, daemon=True)
    sender.start()
    sender.join(timeout=20)
    assert not sender.is_alive()


# -- the database ------------------------------------------------------------------------------------
def test_outputs_stay_when_the_answer_to_the_final_commit_is_lost(rig, monkeypatch):
    after(monkeypatch, state_machine, "finish", unavailable)
    execution_id = rig.run(sleep(0.1))
    rig.ends(execution_id, "completed")
    rig.is_clear()
    assert backend.size_of(File.objects.get().key) > 0


def test_a_database_outage_does_not_count_against_a_staged_execution(rig, monkeypatch):
    monkeypatch.setattr(runner, "IDLE_SECONDS", 0.2)
    asked = threading.Event()

    def gone(*_: Any, **__: Any) -> None:
        asked.set()
        unavailable()

    before(monkeypatch, registry, "are_ours", gone)
    running = rig.run_at_gate()
    staged = rig.run(sleep(0.1))
    assert asked.wait(20)
    rig.comfyui.gate.set()
    rig.ends(staged, "completed")
    rig.ends(running, "completed")
    execution = Execution.objects.get(id=staged)
    assert (execution.attempt, execution.faults) == (1, 0)


def test_a_worker_stops_while_the_database_is_unavailable(rig, monkeypatch):
    monkeypatch.setattr(state_machine, "begin", unavailable)
    execution_id = rig.run(gated())
    rig.comfyui.wait_for(lambda: rig.comfyui.running == execution_id)
    rig.slots.stop(drain_seconds=0.5)
    assert rig.slots.wait_empty(timeout=20)
    assert rig.slots.tokens()  # kept for whoever serves this backend next


def test_a_result_that_cannot_be_recorded_while_stopping_is_left_to_the_next_process(rig, monkeypatch):
    def stop_and_fail(*_: Any, **__: Any) -> None:
        rig.slots.stop(drain_seconds=5)
        raise OperationalError("the database is unavailable")

    monkeypatch.setattr(state_machine, "finish", stop_and_fail)
    execution_id = rig.run_at_gate()
    rig.comfyui.gate.set()
    assert rig.slots.wait_empty(timeout=20)
    execution = Execution.objects.get(id=execution_id)
    assert (execution.status, execution.faults) == ("running", 0)
    assert execution.claim_token is not None


def test_time_without_a_database_is_no_sign_of_death(rig, monkeypatch):
    stuck, go_on = threading.Event(), threading.Event()
    original = state_machine.begin

    def begin(claim: Any, **columns: Any) -> bool:
        stuck.set()
        go_on.wait(60)
        return original(claim, **columns)

    monkeypatch.setattr(state_machine, "begin", begin)
    execution_id = rig.run(sleep(0.1))
    assert stuck.wait(20)
    rig.silence()
    assert rig.slots.live_tokens() == set()
    rig.slots.assume_alive()
    assert rig.slots.live_tokens() == rig.slots.tokens() != set()
    go_on.set()
    rig.ends(execution_id, "completed")


# -- the storage -------------------------------------------------------------------------------------
def test_an_execution_that_waits_for_a_collector_keeps_its_claim(rig, monkeypatch):
    free = threading.Event()
    for _ in range(slots.COLLECTORS):
        rig.slots._collectors.submit(free.wait, 60)
    execution_id = rig.run(sleep(0.1))
    wait_for(lambda: rig.slots._collecting, what="it to end in ComfyUI")
    rig.silence()
    assert rig.slots.live_tokens() == rig.slots.tokens() != set()
    free.set()
    rig.ends(execution_id, "completed")


def test_a_cancelled_execution_holds_no_collector_while_storage_is_unavailable(rig, monkeypatch):
    def full(*_: Any, **__: Any) -> None:
        raise StorageUnavailable

    monkeypatch.setattr(backend, "put", full)
    execution_id = rig.run(sleep(0.1))
    wait_for(lambda: rig.slots._collecting, what="it to end in ComfyUI")
    assert rig.cancel(execution_id) == 200
    assert rig.slots.wait_empty(timeout=40)


def test_a_worker_stops_while_the_database_is_unavailable_and_files_are_being_placed(rig, monkeypatch):
    picture = storing.store(user_id=User.objects.get().pk, kind="upload", filename="a.png", chunks=[PNG])
    with transaction.atomic():
        storing.keep([picture])
    load = {"class_type": "LoadImage", "inputs": {"image": picture.id}}
    rig.submit({"1": load, "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}})
    looked = threading.Event()

    def gone(*_: Any, **__: Any) -> None:
        looked.set()
        unavailable()

    monkeypatch.setattr(File.objects, "filter", gone)
    rig.slots.serve_in_thread()
    assert looked.wait(20)
    rig.slots.stop(drain_seconds=0.5)
    assert rig.slots.wait_empty(timeout=20)


# -- ComfyUI -----------------------------------------------------------------------------------------
def test_a_failing_comfyui_does_not_fail_workflows(rig, monkeypatch):
    monkeypatch.setattr(attempt, "LONGEST_HOLD", 0.01)
    monkeypatch.setattr(backends, "FIRST_PAUSE", 0.1)
    rig.comfyui.faults.status["/prompt"] = 500
    ids = [rig.submit(graphs.colour(n)) for n in range(4)]
    for _ in range(12):
        holds.lift_backoff()
        rig.slots.serve()
        time.sleep(0.05)
    assert {rig.status(id_) for id_ in ids} == {"pending"}


def test_a_comfyui_that_is_slow_to_answer_is_no_fault(rig):
    rig.backend.client._timeout = 0.4
    rig.comfyui.faults.delay |= {"/prompt": 1.0, "/queue": 1.0}
    execution_id = rig.run(sleep(0.1))
    rig.comfyui.wait_for(lambda: rig.comfyui.asked("GET", "/queue"))
    time.sleep(0.6)
    rig.comfyui.faults.delay.clear()
    rig.ends(execution_id, "completed")
    execution = Execution.objects.get(id=execution_id)
    assert (execution.attempt, execution.faults) == (1, 0)
    assert len(rig.comfyui.submissions) == 1


def test_leases_are_renewed_while_comfyui_is_slow_to_answer(rig, settings):
    settings.RENEW_SECONDS = 0.2
    rig.backend.client._timeout = 60.0
    execution_id = rig.run_at_gate()
    rig.comfyui.faults.hang.add("/system_stats")
    asked = len(rig.comfyui.asked("GET", "/system_stats"))
    rig.backend._known_generation = -1  # as after a reconnection
    maintenance = Maintenance(rig.slots)
    maintenance.start()

    leases: set[datetime | None] = set()

    def renewals() -> int:
        leases.update(Execution.objects.filter(id=execution_id).values_list("lease_expires_at", flat=True))
        return len(leases) - 1

    try:
        rig.comfyui.wait_for(lambda: len(rig.comfyui.asked("GET", "/system_stats")) > asked)
        wait_for(lambda: renewals() >= 2, what="the lease to be renewed twice")
        assert len(rig.comfyui.asked("GET", "/system_stats")) == asked + 1, "its answer is still waited for"
    finally:
        rig.comfyui.stop()  # what hangs ends
        maintenance.stop()


def test_limits_without_end_in_object_info_do_not_keep_a_worker_from_work(rig):
    async def run(*_: Any) -> None:
        return None

    rig.comfyui.classes["Endless"] = NodeClass(
        run=run, required={"x": ["FLOAT", {"max": float("inf"), "default": float("nan"), "tooltip": "a\x00"}]}
    )
    rig.backend._known_generation = -1
    assert rig.backend.refresh()
    row = ObjectInfo.objects.get(digest=rig.backend.object_info_digest)
    assert row.body["Endless"]["input"]["required"]["x"][1] == {"max": None, "default": None, "tooltip": "a"}


@pytest.mark.parametrize("text", ["a\x00b", "a\udc80b"], ids=["NUL", "lone surrogate"])
def test_an_error_that_postgresql_cannot_store_verbatim_still_ends_the_execution(rig, text):
    execution_id = rig.run(failing_with(rig, text))
    body = rig.ends(execution_id, "failed")
    assert "Fail" in body["error"]
    assert Execution.objects.get(id=execution_id).attempt == 1


def failing_with(rig: Rig, text: str) -> graphs.Graph:
    async def fail(*_: Any) -> None:
        raise RuntimeError(text)

    rig.comfyui.classes["Fail"] = NodeClass(run=fail, returns=("IMAGE",))
    return {
        "1": {"class_type": "Fail", "inputs": {}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }


@pytest.mark.parametrize("text", ["a\x00b", "a\udc80b"], ids=["NUL", "lone surrogate"])
def test_a_text_output_that_postgresql_cannot_store_verbatim_is_kept(rig, text):
    async def show(*_: Any) -> dict[str, Any]:
        return {"text": [text]}

    rig.comfyui.classes["PreviewAny"] = NodeClass(run=show, required={"source": ["*", {}]}, is_output=True)
    execution_id = rig.run({"1": {"class_type": "PreviewAny", "inputs": {"source": "x"}}})
    rig.ends(execution_id, "completed")
    assert Execution.objects.get(id=execution_id).attempt == 1


def test_users_do_not_see_where_comfyui_is(rig, monkeypatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise Unreachable("POST /prompt: HTTPConnectionPool(host='10.1.2.3', port=8188)", sent=False)

    before(monkeypatch, Client, "submit", refuse)
    execution_id = rig.run(sleep(0.1))
    wait_for(lambda: Execution.objects.get(id=execution_id).held == Held.BACKOFF, what="it to come back")
    messages = list(LogLine.objects.filter(execution_id=execution_id).values_list("message", flat=True))
    assert any("Back to the queue" in message for message in messages)
    assert not any("10.1.2.3" in message for message in messages)


def test_an_unreported_orphan_prompt_is_cancelled_in_bounded_time(rig, monkeypatch):
    """As one that ComfyUI accepted long after its sender had given up: nothing hung, nothing reconnected."""
    monkeypatch.setattr(maintenance, "ORPHAN_SECONDS", 0.2)
    rig.slots.claiming = False
    threads = Maintenance(rig.slots)
    threads.start()
    try:
        wait_for(
            lambda: rig.slots.claiming and not rig.backend.orphans.is_set(), what="the worker to be ready"
        )
        prompt = sleep(60)
        prompt["2"]["inputs"][backends.MARK] = "x.1"
        prompt_id = str(uuid4())
        rig.backend.client.submit(prompt=prompt, prompt_id=prompt_id, client_id="long gone")
        client = rig.backend.client
        wait_for(lambda: client.whereabouts(prompt_id) in ("ended", "unknown"), what="it to be cancelled")
    finally:
        threads.stop()


def test_a_run_that_is_followed_is_no_orphan(rig, monkeypatch):
    """Cancelled just now: its runner clears it, and a look for orphans in between leaves it to that."""
    monkeypatch.setattr(attempt, "WRITE_SECONDS", 3600.0)  # a write would show the runner the loss
    execution_id = rig.run_at_gate()
    Execution.objects.filter(id=execution_id).update(claim_token=None, status="cancelled")
    rig.backend.cancel_orphan_prompts(but=rig.backend.present)
    assert rig.comfyui.interrupts == []
    rig.slots.ended(execution_id)
    rig.is_clear()


def test_cancelling_a_waiting_orphan_interrupts_nothing(rig):
    rig.comfyui.hold()
    execution_id = rig.run(sleep(0.1))
    rig.comfyui.wait_for(lambda: execution_id in rig.comfyui.pending)
    Execution.objects.filter(id=execution_id).update(claim_token=None)
    rig.backend.cancel_orphan_prompts()
    assert rig.comfyui.pending == []
    assert rig.comfyui.interrupts == []


# -- our own mistakes --------------------------------------------------------------------------------
def test_an_execution_that_breaks_its_runner_twice_before_it_starts_fails(rig, monkeypatch):
    def broken(*_: Any, **__: Any) -> None:
        raise KeyError("a mistake of ours")

    monkeypatch.setattr(Client, "submit", broken)
    execution_id = rig.run(graphs.colour(1))
    wait_for(lambda: held(execution_id), what="the first try")
    Execution.objects.filter(id=execution_id).update(held=None)
    rig.slots.serve()
    error = rig.ends(execution_id, "failed")["error"]
    assert error == "Given up after 2 attempts: an internal error of its worker"


def held(execution_id: str) -> bool:
    return Execution.objects.get(id=execution_id).held is not None


def test_an_execution_held_by_a_quota_is_released_without_another_end_of_its_user(db):
    user = make_user("limited")
    UserLimits.objects.create(user=user, executions_running=1)
    api = Api.of(user)
    execution_id = api.post("/workflows/execute", {"workflow": graphs.colour(1)}).json()["execution_id"]
    # As when the last one of this user ended while this one was being submitted.
    Execution.objects.filter(id=execution_id).update(held=Held.QUOTA)
    assert holds.lift_quotas() == 1
    assert not held(execution_id)


def test_a_quota_releases_no_more_than_its_number_whatever_the_plan(db):
    """PostgreSQL may look for the rows to release once for each candidate."""
    user = make_user("limited")
    UserLimits.objects.create(user=user, executions_running=1)
    api = Api.of(user)
    for number in range(3):
        api.post("/workflows/execute", {"workflow": graphs.colour(number)})
    Execution.objects.update(held=Held.QUOTA)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("DISCARD PLANS")
        for name in ("hashjoin", "hashagg", "sort", "material"):
            cursor.execute(f"SET LOCAL enable_{name} = off")
        assert holds.lift_quota(user_id=user.pk) == 1
    assert Execution.objects.filter(held=None).count() == 1


def test_an_execution_held_by_a_quota_is_released_when_the_limit_is_removed(db):
    user = make_user("limited")
    UserLimits.objects.create(user=user, executions_running=1)
    api = Api.of(user)
    sent = [api.post("/workflows/execute", {"workflow": graphs.colour(n)}) for n in range(3)]
    ids = [response.json()["execution_id"] for response in sent]
    assert [held(id_) for id_ in ids] == [False, True, True]
    UserLimits.objects.filter(user=user).delete()
    assert holds.lift_quotas() == 2
    assert [held(id_) for id_ in ids] == [False, False, False]
