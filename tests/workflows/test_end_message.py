"""What the message about an end carries, so that those who wait for it need not read."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

from script.harness import graphs
from script.harness.waiting import wait_for
from tests.workflows.rig import before, ends
from tests.workflows.test_row_locks import another_session
from workflows.models import Execution
from workflows.presentation import end_message, representations, selectors
from workflows.queue import state_machine


def test_it_has_the_rows_of_the_result(rig, monkeypatch):
    told = ends(monkeypatch)
    execution_id = rig.run(graphs.colour(1))
    rig.ends(execution_id, "completed")
    assert rig.slots.wait_empty(timeout=20)
    [message] = told
    assert (message["id"], message["status"]) == (execution_id, "completed")
    found = end_message.unpack(message["rows"])
    assert found is not None
    read = selectors.whole(found.execution.id)
    assert read is not None
    assert message["user"] == read.execution.user_id
    for got, wanted in (([found.execution], [read.execution]), (found.outputs, read.outputs)):
        assert [values(each) for each in got] == [values(each) for each in wanted]
    assert [values(line) for line in found.lines] == [values(line) for line in read.lines]
    shown = [representations.result_of(each, base="https://here") for each in (found, read)]
    assert plain(shown[0]) == plain(shown[1])
    assert shown[0]["outputs"]["images"]


def test_it_has_the_lines_that_were_written_while_the_end_waited_for_the_row(rig, monkeypatch):
    told = ends(monkeypatch)
    real = state_machine.finish

    def finish(claim: Any, outcome: Any) -> bool:
        with another_session() as session, ThreadPoolExecutor(1) as pool:
            session.execute("UPDATE workflows_execution SET tries = 0 WHERE id = %s", [claim.execution_id])
            session.execute(
                "INSERT INTO workflows_logline (execution_id, level, message) VALUES (%s, 'INFO', 'late')",
                [claim.execution_id],
            )
            committed = pool.submit(commit_once_waited_for, session)
            done = real(claim, outcome)
            committed.result()
            return done

    monkeypatch.setattr(state_machine, "finish", finish)
    rig.ends(rig.run(graphs.colour(1)), "completed")
    assert rig.slots.wait_empty(timeout=20)
    lines = [row["message"] for row in json.loads(told[0]["rows"])["lines"]]
    assert lines.index("late") < lines.index("Workflow completed successfully")


def commit_once_waited_for(session: Any) -> None:
    with another_session() as watch:
        watch.autocommit = True
        pid = session.info.backend_pid
        waiting = "SELECT FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))"
        wait_for(lambda: watch.execute(waiting, [pid]).rowcount, what="the end to wait for the row")
    session.commit()


def test_the_message_of_a_failed_execution_has_no_rows(rig, monkeypatch):
    told = ends(monkeypatch)
    failing = {
        "1": {"class_type": "Fail", "inputs": {}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }
    rig.ends(rig.run(failing), "failed")
    assert rig.slots.wait_empty(timeout=20)  # the message is sent after the commit
    assert [(message["status"], message["rows"]) for message in told] == [("failed", None)]


def test_a_long_result_is_left_out_of_the_message(rig, monkeypatch):
    told = ends(monkeypatch)
    monkeypatch.setattr(end_message, "LONGEST", 100)
    rig.ends(rig.run(graphs.colour(1)), "completed")
    assert rig.slots.wait_empty(timeout=20)
    assert [message["rows"] for message in told] == [None]


def test_rows_of_another_version_are_not_read(rig, monkeypatch):
    told = ends(monkeypatch)
    rig.ends(rig.run(graphs.colour(1)), "completed")
    assert rig.slots.wait_empty(timeout=20)
    rows = json.loads(told[0]["rows"])
    del rows["execution"]["gpu_seconds"]
    assert end_message.unpack(json.dumps(rows)) is None


def test_the_end_of_a_lost_claim_is_not_announced(rig, monkeypatch):
    told = ends(monkeypatch)
    before(monkeypatch, state_machine, "finish", lambda *_: Execution.objects.update(claim_token=uuid4()))
    execution_id = rig.run(graphs.colour(1))
    rig.comfyui.wait_for(lambda: execution_id in rig.comfyui.history)
    assert rig.slots.wait_empty(timeout=20)
    assert told == []
    assert rig.status(execution_id) != "completed"


def values(instance: Any) -> dict[str, Any]:
    return {field.attname: getattr(instance, field.attname) for field in instance._meta.concrete_fields}


def plain(shown: dict[str, Any]) -> Any:
    return json.loads(json.dumps({**shown, "metadata": shown["metadata"].encoded.decode()}, default=str))
