"""PostgreSQL ends the session between two steps of recording an end: it is recorded once, with everything."""

from __future__ import annotations

import pytest
from django.db import connection

from script.harness import graphs
from tests.workflows.rig import before
from tests.workflows.test_row_locks import another_session
from workflows.models import Delta, LogLine, Output
from workflows.queue import scheduling, state_machine


@pytest.mark.parametrize(
    ("owner", "step"),
    [(state_machine, "_follow_up_end"), (scheduling, "charge")],
    ids=["once the end is written", "before the commit"],
)
def test_a_session_that_ends_between_two_steps_costs_a_second_try(rig, monkeypatch, owner, step):
    ended: list[int] = []

    def end_session(*_: object) -> None:
        pid = connection.connection.info.backend_pid
        with another_session() as session:
            session.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
        ended.append(pid)

    before(monkeypatch, owner, step, end_session)
    execution_id = rig.run(graphs.colour(1))
    result = rig.ends(execution_id, "completed")
    assert ended
    assert len(result["outputs"]["images"]) == 1
    assert Output.objects.count() == 1
    last = LogLine.objects.filter(message="Workflow completed successfully")
    assert last.count() == 1
    assert sum(each.count for each in Delta.objects.filter(metric="executions_ended")) == 1
    assert rig.slots.wait_empty(timeout=20)
