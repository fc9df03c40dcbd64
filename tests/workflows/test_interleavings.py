"""Races, triggered at the critical point.

| while                                    | this happens                 | the client sees          | ComfyUI                |
| ---------------------------------------- | ---------------------------- | ------------------------ | ---------------------- |
| claimed, not yet posted                  | cancel                       | cancelled                | never hears of it      |
| noted as posted, before the POST         | cancel                       | cancelled                | cleared                |
| claimed, frozen for longer than a lease  | another worker has the claim | the other one's result   | never hears of it      |
| waiting in ComfyUI                       | cancel                       | cancelled                | deleted, no interrupt  |
| begun in ComfyUI, not yet in our row     | cancel                       | cancelled                | interrupted            |
| running                                  | cancel                       | cancelled                | interrupted, only it   |
| ended in ComfyUI, being collected        | cancel                       | cancelled, no outputs    | forgotten              |
| recorded as completed                    | cancel                       | 409, completed           | -                      |
| ended in ComfyUI, being collected        | another worker has the claim | the other one's result   | -                      |
| the POST                                 | no answer, but accepted      | completed, ran once      | posted once            |
| the POST                                 | 500, but accepted            | completed, ran once      | posted once            |
| running                                  | the websocket is cut         | completed                | -                      |
| running                                  | no event ever comes          | completed                | -                      |
| running                                  | a stranger interrupts it     | completed, second try    | posted twice           |
| waiting in ComfyUI                       | a stranger deletes it        | completed, second try    | posted twice           |
| running                                  | ComfyUI loses everything     | completed, second try    | posted twice           |

Two workers for one backend, frozen and killed ones: test_worker_death, with real processes.
"""

# ruff: noqa: E501  (a table for people)
from __future__ import annotations

import uuid
from typing import Any

import pytest
import requests

from comfyui import Client
from files.models import File
from script.harness import graphs
from script.harness.waiting import wait_for
from tests.workflows.rig import after, before, sleep
from workflows.models import Execution
from workflows.queue import claims, state_machine
from workflows.worker import output_collection, runner


def test_cancel_between_claim_and_post(rig, monkeypatch):
    """Of a claim that is looked at once more, since its process may have been frozen."""
    monkeypatch.setattr(claims, "FRESH_SECONDS", 0.0)
    before(monkeypatch, claims, "mark_submitted", lambda claim, **_: rig.cancel(claim.execution_id))
    execution_id = rig.run(sleep(5))
    rig.ends(execution_id, "cancelled")
    rig.is_clear()
    assert rig.comfyui.submissions == []


def test_a_claim_that_was_lost_while_its_process_was_frozen_is_not_posted(rig, monkeypatch):
    """It was noted as posted with the claim itself: after a while it is looked at once more."""
    monkeypatch.setattr(claims, "FRESH_SECONDS", 0.0)

    def lose(claim, **_):
        Execution.objects.filter(id=claim.execution_id).update(claim_token=uuid.uuid4(), worker="other")

    before(monkeypatch, claims, "mark_submitted", lose)
    execution_id = rig.run(sleep(5))
    wait_for(lambda: Execution.objects.filter(id=execution_id, worker="other").exists(), what="the loss")
    assert rig.slots.wait_empty(timeout=20)
    assert rig.comfyui.submissions == []


def test_a_claim_without_input_files_is_marked_as_submitted_at_once(rig):
    rig.submit(graphs.colour(1))
    claim = claims.take(worker="gpu", boot_id="its run")
    assert claim is not None
    assert claim.posted_at is not None
    [adopted] = claims.adopt(worker="gpu", held=[])
    assert (adopted.boot, adopted.faults) == ("its run", 0)


def test_a_run_whose_events_all_arrived_is_collected_without_fetching_its_history(rig, monkeypatch):
    monkeypatch.setattr(runner, "IDLE_SECONDS", 60.0)
    execution_id = rig.run(sleep(0.05))
    assert rig.ends(execution_id, "completed")["outputs"]
    rig.is_clear()
    assert rig.comfyui.asked("GET", f"/history/{execution_id}") == []


def test_cancel_between_the_note_and_the_post(rig, monkeypatch):
    before(monkeypatch, Client, "submit", lambda _, **kwargs: rig.cancel(kwargs["prompt_id"]))
    execution_id = rig.run(sleep(30))
    rig.ends(execution_id, "cancelled")
    rig.is_clear()
    assert len(rig.comfyui.submissions) == 1


def test_cancel_of_the_staged_one(rig):
    running = rig.run_at_gate()
    staged = rig.run(sleep(0.1))
    rig.comfyui.wait_for(lambda: staged in rig.comfyui.pending)
    assert rig.cancel(staged) == 200
    rig.comfyui.wait_for(lambda: staged not in rig.comfyui.pending)
    rig.comfyui.gate.set()
    rig.ends(running, "completed")
    rig.ends(staged, "cancelled")
    assert rig.comfyui.interrupts == []
    rig.is_clear()


def test_cancel_between_comfyuis_start_and_our_row(rig, monkeypatch):
    before(monkeypatch, state_machine, "begin", lambda claim, **_: rig.cancel(claim.execution_id))
    execution_id = rig.run(sleep(30))
    body = rig.ends(execution_id, "cancelled")
    assert body["started_at"] is None
    rig.is_clear()
    assert len(rig.comfyui.interrupts) >= 1


def test_cancel_of_the_running_one_leaves_the_next_alone(rig):
    doomed = rig.run_at_gate()
    spared = rig.run(sleep(0.3))
    rig.comfyui.wait_for(lambda: spared in rig.comfyui.pending)
    assert rig.cancel(doomed) == 200
    rig.ends(spared, "completed")
    rig.ends(doomed, "cancelled")
    assert {request.body["prompt_id"] for request in rig.comfyui.interrupts} == {doomed}
    rig.is_clear()


def test_cancel_while_outputs_are_collected(rig, monkeypatch):
    after(monkeypatch, output_collection, "collect", lambda claim, *_, **__: rig.cancel(claim.execution_id))
    execution_id = rig.run(sleep(0.1))
    body = rig.ends(execution_id, "cancelled")
    rig.is_clear()
    assert body["outputs"] == {}
    assert not File.objects.exists()


def test_cancel_after_completion_is_a_conflict(rig):
    execution_id = rig.run(sleep(0.1))
    rig.ends(execution_id, "completed")
    assert rig.cancel(execution_id) == 409
    assert rig.status(execution_id) == "completed"


def test_a_claim_lost_while_collecting_changes_nothing(rig, monkeypatch):
    other = uuid.uuid4()

    def lose(claim: Any, *_: Any, **__: Any) -> None:
        Execution.objects.filter(id=claim.execution_id).update(claim_token=other, worker="elsewhere")

    after(monkeypatch, output_collection, "collect", lose)
    execution_id = rig.run_at_gate()
    rig.comfyui.gate.set()
    wait_for(lambda: Execution.objects.get(id=execution_id).claim_token == other, what="the claim to be lost")
    assert rig.slots.wait_empty(timeout=20)
    execution = Execution.objects.get(id=execution_id)
    assert (execution.status, execution.claim_token) == ("running", other)
    assert not File.objects.exists()


@pytest.mark.parametrize("fault", ["no_answer_after_accepting", "error_after_accepting"])
def test_a_post_without_an_answer_runs_once(rig, fault):
    setattr(rig.comfyui.faults, fault, 1)
    execution_id = rig.run(sleep(1))
    rig.ends(execution_id, "completed")
    assert len(rig.comfyui.submissions) == 1
    rig.is_clear()


def test_a_cut_websocket_does_not_lose_the_end(rig):
    execution_id = rig.run_at_gate()
    rig.comfyui.drop_sockets()
    rig.comfyui.gate.set()
    rig.ends(execution_id, "completed")
    assert len(rig.comfyui.submissions) == 1


def test_an_end_without_any_event_is_found_in_history(rig, monkeypatch):
    monkeypatch.setattr(runner, "IDLE_SECONDS", 0.3)
    rig.comfyui.faults.silent = True
    execution_id = rig.run(sleep(0.5))
    body = rig.ends(execution_id, "completed")
    assert body["outputs"]["images"]


def test_a_stranger_that_interrupts_it_costs_a_second_try(rig):
    execution_id = rig.run_at_gate()
    requests.post(f"{rig.comfyui.url}/interrupt", json={"prompt_id": execution_id}, timeout=20)
    rig.comfyui.gate.set()
    rig.ends(execution_id, "completed")
    assert len(rig.comfyui.submissions) == 2


def test_a_stranger_that_deletes_it_costs_a_second_try(rig, monkeypatch):
    monkeypatch.setattr(runner, "IDLE_SECONDS", 0.3)
    running = rig.run_at_gate()
    waiting = rig.run(sleep(0.1))
    rig.comfyui.wait_for(lambda: waiting in rig.comfyui.pending)
    requests.post(f"{rig.comfyui.url}/queue", json={"delete": [waiting]}, timeout=20)
    unclaimed = Execution.objects.filter(id=waiting, claim_token=None)
    wait_for(unclaimed.exists, what="it to be in the queue again")
    rig.comfyui.gate.set()
    rig.ends(waiting, "completed")
    assert Execution.objects.get(id=waiting).faults == 0
    rig.ends(running, "completed")


def test_a_restarted_comfyui_costs_a_second_try(rig):
    execution_id = rig.run_at_gate()
    before = rig.backend.session.generation
    rig.comfyui.restart()
    wait_for(lambda: rig.status(execution_id) == "pending", what="it to be in the queue again")
    rig.comfyui.gate.set()
    rig.reconnect(since=before)
    rig.ends(execution_id, "completed")
    execution = Execution.objects.get(id=execution_id)
    assert (execution.attempt, execution.faults) == (2, 1)
