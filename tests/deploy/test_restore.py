"""The database is lost while an execution runs, and a dump from that time is restored: docs/operations.md."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from script.local import postgres
from tests.workflows import graphs
from tests.workflows.sse import follow


def run_on(deployment, program: str, *arguments: str | Path) -> None:
    done = subprocess.run(
        [postgres.program(program), "--dbname", deployment.database_url, *arguments],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def restored(deployment, tmp_path):
    """Two are submitted before the dump (one runs, one waits) and one after it; then all dies."""
    alice = deployment.person()
    running = alice.execute(graphs.txt2img(steps=80, seed=4711))
    with follow(alice, running) as stream:
        stream.until("progress")
    waiting = alice.execute(graphs.colour(0x00AA00))
    dump = tmp_path / "comfyserve.dump"
    run_on(deployment, "pg_dump", "--format=custom", "--file", dump)
    lost = alice.execute(graphs.colour(0xAA0000))
    for name in ("gpu-worker", "worker", "api"):
        deployment.processes[name].kill()
    deployment.make_database()
    run_on(deployment, "pg_restore", "--exit-on-error", "--no-owner", dump)
    for name in ("api", "gpu-worker", "worker"):
        deployment.start(name)
    deployment.wait_until_well("api")
    return alice, running, waiting, lost


def test_what_ran_and_what_waited_is_done_and_what_came_later_is_gone(restored, deployment):
    alice, running, waiting, lost = restored
    for execution in (running, waiting):
        with follow(alice, execution) as stream:
            stream.until("status", status="completed", seconds=60)
        assert len(alice.get(f"/workflows/{execution}").json()["outputs"]["images"]) == 1
    assert alice.get(f"/workflows/{lost}").status_code == 404
    # Its ComfyUI lived on: the run was joined there, not done again.
    assert deployment.sql("SELECT attempt, returns FROM workflows_execution WHERE id = %s", running) == [
        (1, 0)
    ]
