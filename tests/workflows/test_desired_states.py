"""Pause, resume and drain: the state that an operator requests, and how the real worker applies it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from accounts.audit_models import AuditEntry
from script.harness.graphs import colour, gate, sleep
from script.harness.waiting import wait_for
from tests.factories import Api, assert_error, make_user
from tests.health.test_workers import make_worker
from workflows.fleet import registry
from workflows.models import Worker


@pytest.fixture
def operator(db: Any) -> Api:
    return Api.of(make_user("operator", is_staff=True, is_superuser=True))


class TestWishes:
    @pytest.mark.parametrize("verb, state", [("pause", "pause"), ("drain", "drain"), ("resume", "work")])
    def test_it_is_stored_with_the_worker_and_announced(self, operator: Api, verb: str, state: str) -> None:
        make_worker("gpu:1", desired_state="pause" if verb == "resume" else "work")
        body = operator.post(f"/workers/gpu:1/{verb}").json()
        assert (body["name"], body["wish"]) == ("gpu:1", state)
        assert Worker.objects.get().desired_state == state
        row = AuditEntry.objects.filter(object_type="worker").get()
        assert (row.object_id, row.changes["desired_state"][1]) == ("gpu:1", state)

    def test_asked_again_nothing_happens(self, operator: Api) -> None:
        make_worker("gpu")
        for _ in range(2):
            assert operator.post("/workers/gpu/pause").status_code == 200
        assert AuditEntry.objects.filter(action="worker.pause").count() == 1

    def test_there_is_none_of_that_name(self, operator: Api) -> None:
        assert_error(operator.post("/workers/gone/pause"), 404, "not_found")

    def test_staff_without_the_permission_is_refused(self, db: Any) -> None:
        make_worker("gpu")
        reader = Api.of(make_user("reader", is_staff=True))
        assert_error(reader.post("/workers/gpu/pause"), 403, "forbidden")
        assert Worker.objects.get().desired_state == Worker.DesiredState.WORK

    def test_a_paused_worker_does_not_delay_others(self, db: Any) -> None:
        """Nobody gives it what they have staged, and what it alone has is waited for."""
        make_worker("here", idle=True)
        make_worker("there", idle=True)
        registry.set_desired_state(name="there", state=Worker.DesiredState.PAUSE)
        assert registry.idle_others(name="here") == []
        assert registry.others_alive(name="here") == ["there"]

    def test_a_heartbeat_does_not_change_the_desired_state(self, db: Any) -> None:
        make_worker("gpu", desired_state="drain")
        registry.record_heartbeat(name="gpu", host="h", pid=2, url="http://x", state=Worker.State.ACTIVE)
        assert registry.desired_state_of("gpu") == Worker.DesiredState.DRAIN


@pytest.fixture
def stack_at_work(gpu_worker: Any) -> Iterator[Any]:
    """The kept worker takes work again afterwards, whatever happened."""
    yield gpu_worker
    gpu_worker.sql("UPDATE workflows_worker SET wish = 'work'")


def test_a_real_worker_pauses_drains_and_resumes_over_a_restart(stack_at_work: Any, comfyui: Any) -> None:
    stack = stack_at_work
    person = stack.person("waits")
    stack.sql("UPDATE accounts_user SET is_staff = true, is_superuser = true WHERE email = %s", person.email)

    def worker() -> dict[str, Any]:
        """The one that is there, or was last."""
        rows = person.get("/workers/").json()
        return min(rows, key=lambda row: row["silent_seconds"])

    def is_(**wanted: Any) -> None:
        wait_for(lambda: wanted.items() <= worker().items(), what=f"the worker to be {wanted}")

    is_(status="active")
    name = worker()["name"]
    gate_name = uuid4().hex
    running, staged = person.execute(gate(gate_name)), person.execute(sleep(0.1, seed=72))
    both = "SELECT status FROM workflows_execution WHERE claim_token IS NOT NULL ORDER BY status"
    wait_for(lambda: stack.sql(both) == [("pending",), ("running",)], what="one to run and one to be staged")

    person.post(f"/workers/{name}/drain")
    is_(status="draining")
    wait_for(lambda: stack.sql(both) == [("running",)], what="the staged one to go back")
    comfyui.open_gate(gate_name)
    assert person.result(running)["status"] == "completed"
    is_(status="drained", running=None, staged=None)

    stack.workers["gpu-kept"].stop()
    person.post(f"/workers/{name}/pause")
    stack.start_worker("gpu-kept", comfyui_url=comfyui.url, keep=True)
    is_(status="paused")
    later = person.execute(colour(73))
    assert {person.get(f"/workflows/{each}").json()["status"] for each in (staged, later)} == {"pending"}

    person.post(f"/workers/{name}/resume")
    assert {person.result(each)["status"] for each in (staged, later)} == {"completed"}
    is_(status="active", wish="work")
    told = [line["message"] for line in person.get(f"/workflows/{staged}/logs").json()["logs"]]
    assert "Back to the queue: its worker is paused" in told
