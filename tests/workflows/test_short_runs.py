"""Runs that end before their start was written, and progress: what is written of a run, and how often."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import Any

from files import backend
from script.harness import graphs
from script.harness.waiting import wait_for
from tests.workflows.rig import before, sleep
from workflows.models import Execution
from workflows.queue import state_machine


def test_it_has_begun_and_ended_in_result_and_log(rig):
    result = rig.ends(rig.run(graphs.colour(1)), "completed")
    assert result["created_at"] <= result["started_at"] <= result["completed_at"]
    messages = [line["message"] for line in result["logs"]]
    assert messages.index("Starting workflow execution") < messages.index("Workflow completed successfully")
    execution = Execution.objects.get()
    assert execution.current_step == execution.total_steps > 0


def test_its_begin_is_written_when_collecting_takes_long(rig, monkeypatch):
    go_on = threading.Event()
    before(monkeypatch, backend, "put", lambda *_, **__: go_on.wait(20))
    execution_id = rig.run(graphs.colour(1))
    wait_for(lambda: rig.status(execution_id) == "running", what="it to have begun")
    go_on.set()
    result = rig.ends(execution_id, "completed")
    begun = [line for line in result["logs"] if line["message"] == "Starting workflow execution"]
    assert len(begun) == 1


def test_a_cancellation_wins_over_an_end_whose_start_was_not_recorded(rig, monkeypatch):
    cancelled: list[int] = []
    before(
        monkeypatch,
        state_machine,
        "finish",
        lambda claim, _: cancelled.append(rig.cancel(claim.execution_id)),
    )
    result = rig.ends(rig.run(graphs.colour(1)), "cancelled")
    assert cancelled == [200]
    assert result["outputs"] == {}
    rig.is_clear()


def test_progress_that_stays_as_it_is_is_not_written_again(rig, monkeypatch):
    """At a thousand workers that would be thousands of statements a second which say nothing."""
    written: list[tuple[dict[str, Any], bool]] = []
    original = state_machine.write_progress

    def note(claim: Any, *, columns: dict[str, Any], lines: Any) -> bool:
        written.append((columns, bool(lines)))
        return original(claim, columns=columns, lines=lines)

    monkeypatch.setattr(state_machine, "write_progress", note)
    rig.ends(rig.run(sleep(2.5)), "completed")  # one node, silent for five times as long as writes are apart
    assert written
    repeated = [each for last, each in pairwise(written) if each[0] == last[0] and not each[1]]
    assert repeated == []
