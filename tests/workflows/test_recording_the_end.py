"""PostgreSQL ends the session between two steps of recording an end: it is recorded once, with everything."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest
from django.db import connection

from files import backend, storing
from files.models import File
from script.harness import graphs
from tests.test_rows import protocol_traced
from tests.workflows.rig import before
from tests.workflows.test_row_locks import another_session
from workflows.models import Delta, Execution, LogLine, Output, Status
from workflows.queue import end_rows, state_machine, transitions


@pytest.mark.parametrize(
    ("owner", "step", "output"),
    [
        (end_rows, "_lock", {}),
        (storing, "new_rows", {}),
        (storing, "note_kept", {"format": "webp"}),
        (state_machine, "_follow_up_end", {"format": "webp"}),
        (transitions, "record_effects", {"format": "webp"}),
    ],
    ids=[
        "before it is sent",
        "while it is sent",
        "once it is written",
        "before the rest is written",
        "once the conversions are written",
    ],
)
def test_a_session_that_ends_between_two_steps_costs_a_second_try(rig, monkeypatch, owner, step, output):
    ended: list[int] = []

    def end_session(*_: object, **__: object) -> None:
        pid = connection.connection.info.backend_pid
        with another_session() as session:
            session.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
        ended.append(pid)

    before(monkeypatch, owner, step, end_session)
    execution_id = rig.submit(graphs.colour(1), output=output)
    rig.slots.serve_in_thread()
    result = rig.ends(execution_id, "completed")
    assert ended
    assert len(result["outputs"]["images"]) == 1
    assert Output.objects.count() == 1
    last = LogLine.objects.filter(message="Workflow completed successfully")
    assert last.count() == 1
    assert sum(each.count for each in Delta.objects.filter(metric="executions_ended")) == 1
    assert rig.slots.wait_empty(timeout=20)


@pytest.mark.parametrize("had_bytes", [False, True])
def test_an_end_takes_one_round_trip(rig, monkeypatch, tmp_path, had_bytes):
    """The locks and one statement in one pipeline, with BEGIN and COMMIT, also if the user already has the
    same bytes: the fewer, the sooner the client has its answer.
    """
    ways: list[str] = []
    execute, real = psycopg.Cursor.execute, state_machine.finish
    finishing: list[int] = []

    def recorded(self: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() in finishing:
            ways.append("in a pipeline" if self.connection.pgconn.pipeline_status else f"alone: {query}")
        return execute(self, query, *args, **kwargs)

    def finish(claim: Any, outcome: Any) -> bool:
        finishing.append(threading.get_ident())
        try:
            with protocol_traced(tmp_path / "trace"):
                return real(claim, outcome)
        finally:
            finishing.clear()

    rig.ends(rig.run(graphs.colour(1)), "completed")  # the connection and its caches are warm
    rig.is_clear()
    if not had_bytes:  # the scripted ComfyUI makes the same bytes again
        File.objects.all().delete()
    monkeypatch.setattr(psycopg.Cursor, "execute", recorded)
    monkeypatch.setattr(state_machine, "finish", finish)
    rig.ends(rig.run(graphs.colour(2)), "completed")
    assert ways == ["in a pipeline"] * 4
    trace = (tmp_path / "trace").read_text()
    assert trace.count("\tSync") + trace.count("\tQuery") == 1


def test_outputs_with_bytes_that_the_user_has_share_them(rig):
    """Each refers to the first ones, and what was stored again is deleted."""
    before = stored()
    for _ in range(2):
        rig.ends(rig.run(graphs.colour(1)), "completed")
    rig.is_clear()
    first, second = File.objects.order_by("created_at")
    assert first.key == second.key
    assert stored() - before == {first.key}


@pytest.mark.parametrize("output", [{}, {"format": "webp"}])
def test_outputs_with_bytes_that_the_storage_has_lost_restore_them(rig, output):
    """Those of the earlier execution are there again too, and so is what they were converted to."""
    results = [first] = [run(rig, output)]
    contents = fetched(rig, first)
    for prefix in ("outputs/", "converted/"):
        for lost in list(backend.walk(prefix)):
            backend.delete(lost.key)
    results.append(run(rig, output))
    rig.is_clear()
    assert [fetched(rig, result) for result in results] == [contents] * 2
    assert len(contents) == 1 + bool(output)


def run(rig: Any, output: dict[str, str]) -> Any:
    execution_id = rig.submit(graphs.colour(1), output=output)
    rig.slots.serve_in_thread()
    return rig.ends(execution_id, "completed")


def fetched(rig: Any, result: Any) -> list[bytes]:
    """The bytes of its output, and of the converted file if there is one."""
    [image] = result["outputs"]["images"]
    urls = [image["url"], *([image["converted"]["url"]] if "converted" in image else [])]
    return [rig.api.get(url).getvalue() for url in urls]


def stored() -> set[str]:
    return {each.key for each in backend.walk("outputs/")}


def test_an_error_after_the_commit_costs_no_outputs(rig, monkeypatch):
    def fail(*_: object) -> None:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(state_machine, "_report_end", fail)
    rig.ends(rig.run(graphs.colour(1)), "completed")
    rig.is_clear()
    assert {each.key for each in File.objects.all()} <= stored()


def test_a_second_end_changes_nothing_though_its_outputs_exist(rig, monkeypatch):
    """As after a commit whose response was lost: it is no error, and nothing is written."""
    again: list[bool] = []
    real = state_machine.finish

    def twice(claim: Any, outcome: Any) -> bool:
        done = real(claim, outcome)
        lines = LogLine.objects.count()
        again.append(real(claim, outcome))
        assert LogLine.objects.count() == lines
        return done

    monkeypatch.setattr(state_machine, "finish", twice)
    result = rig.ends(rig.run(graphs.colour(1)), "completed")
    rig.is_clear()
    assert again == [False]
    assert len(result["outputs"]["images"]) == 1
    assert Output.objects.count() == File.objects.count() == 1
    assert Execution.objects.get().status == Status.COMPLETED
