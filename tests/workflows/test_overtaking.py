"""One user's long run keeps nobody waiting for a second one: see workflows.queue.overtaking."""

from __future__ import annotations

import pytest

from script.harness.waiting import wait_for
from tests.factories import Api, make_user
from tests.workflows.rig import Rig, gated, sleep
from workflows.models import Execution
from workflows.worker import slots


@pytest.fixture(autouse=True)
def short_runs_are_long(monkeypatch):
    monkeypatch.setattr(slots, "LONG_SECONDS", 0.3)


def submit(api: Api, *, seconds: float = 0.1, priority: str = "normal") -> str:
    body = {"workflow": sleep(seconds), "priority": priority}
    return api.post("/workflows/execute", body).json()["execution_id"]


def run_and_stage(rig: Rig) -> tuple[str, str]:
    """A run that ends when the test sets `rig.comfyui.gate`, and one behind it."""
    running = rig.run(gated())
    rig.comfyui.wait_for(lambda: rig.comfyui.running)
    staged = rig.run(sleep(0.1))
    rig.comfyui.wait_for(lambda: staged in rig.comfyui.pending)

    def is_long() -> bool:
        held, _ = rig.slots.occupants()
        return held is not None and held.runner is not None and held.runner.run_seconds > 0.3

    wait_for(is_long, what="the run to be a long one")
    return running, staged


def completed(*ids: str) -> None:
    def count() -> int:
        return Execution.objects.filter(id__in=ids, status="completed").count()

    wait_for(lambda: count() == len(ids), seconds=20, what="all of them to be completed")


def order_of_start(*ids: str) -> list[str]:
    found = Execution.objects.filter(id__in=ids).order_by("started_at").values_list("id", flat=True)
    return [str(each) for each in found]


def test_another_user_waits_for_the_running_one_only(rig):
    running, staged = run_and_stage(rig)
    others = submit(Api.of(make_user("bob")))
    rig.slots.serve_in_thread()
    rig.comfyui.wait_for(lambda: others in rig.comfyui.pending)
    rig.comfyui.gate.set()
    completed(running, others, staged)
    assert order_of_start(running, others, staged) == [running, others, staged]
    assert rig.comfyui.interrupts == []
    rig.is_clear()


def test_it_stays_staged_for_a_user_whose_turn_is_later(rig):
    running, staged = run_and_stage(rig)
    others = submit(Api.of(make_user("bob")), priority="low")
    rig.slots.reconsider_staged()
    rig.comfyui.gate.set()
    completed(running, staged, others)
    assert order_of_start(others, staged) == [staged, others]
    assert Execution.objects.get(id=staged).attempt == 1


def test_it_stays_staged_for_the_users_own(rig):
    running, staged = run_and_stage(rig)
    own = rig.run(sleep(0.1))
    rig.slots.reconsider_staged()
    rig.comfyui.gate.set()
    completed(running, staged, own)
    assert order_of_start(own, staged) == [staged, own]
    assert Execution.objects.get(id=staged).attempt == 1


def test_it_does_not_move_back_and_forth(rig):
    """What stepped back is behind the one that it let pass, and virtual time has not decreased."""
    _, staged = run_and_stage(rig)
    carol, bob = Api.of(make_user("carol")), Api.of(make_user("bob"))
    first = submit(bob)
    rig.slots.serve_in_thread()
    rig.comfyui.wait_for(lambda: first in rig.comfyui.pending)
    later = submit(carol)
    turns = dict(Execution.objects.values_list("id", "turn"))
    by_id = {str(each): turn for each, turn in turns.items()}
    assert by_id[first] < by_id[staged]
    assert by_id[first] <= by_id[later]
    assert Execution.objects.get(id=staged).attempt == 1
