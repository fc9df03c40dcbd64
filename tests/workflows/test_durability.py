"""Confirmed changes survive PostgreSQL's sudden death; asynchronous ones may be lost, but never in part.

With a PostgreSQL of its own that syncs as in use: the other tests' does not.
"""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.conf import settings

from script.harness import graphs
from script.harness.waiting import wait_for
from script.local import ports
from script.local.postgres import Postgres

ROOT = Path(__file__).parent.parent.parent
# With these, and without its WAL writer, PostgreSQL's log is flushed only by commits that wait for it.
UNFLUSHED = ("ALTER SYSTEM SET autovacuum = off", "ALTER SYSTEM SET bgwriter_lru_maxpages = 0")
WAL_WRITER = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'"
# Nothing follows from these that could not be forgotten: docs/reliability.md.
RELAXED = {
    "files/thumbnails.py: _RECORD_SQL",
    "workflows/fleet/registry.py: set_idle",
    "workflows/queue/claims.py: _TAKE_SQL",
    "workflows/queue/state_machine.py: write_progress",
}
BEGIN = f"""
import os
import django; django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
from accounts.models import User
from workflows.models import Execution, Status
from workflows.queue import claims, state_machine, submission
from django.db import connection
user = User.objects.create(username="alice", email="alice@example.com")
for number in range(2):
    submission.submit(
        user=user, workflow={graphs.colour(1)!r}, priority="normal", timeout_minutes=1, metadata={{}}
    )
done = claims.take(worker="gpu")
assert claims.mark_submitted(done, boot_id="1")
assert state_machine.begin(done, total_steps=1)
assert state_machine.finish(done, state_machine.Outcome(Status.COMPLETED, gpu_seconds=1.0))
"""
CLAIM_AND_WAIT = """
relaxed = claims.take(worker="gpu")
assert relaxed is not None
print("claimed", done.execution_id, relaxed.execution_id, flush=True)
input()
"""
AGAIN = """
import django; django.setup()
from workflows.queue import claims
claim = claims.take(worker="gpu")
print(claim.execution_id, claim.attempt, flush=True)
"""


@pytest.fixture
def postgres(open_folder: Path) -> Iterator[Postgres]:
    server = Postgres(open_folder / "postgres", port=ports.free_port(), log=open_folder / "postgres.log")
    server.prepare()
    server.start()
    server.wait()
    server.create_database("comfyserve")
    with psycopg.connect(server.url(), autocommit=True) as session:
        for statement in UNFLUSHED:
            session.execute(statement)
        session.execute("SELECT pg_reload_conf()")
        [[wal_writer]] = session.execute(WAL_WRITER).fetchall()
    os.kill(wal_writer, signal.SIGSTOP)
    yield server
    server.stop()


def python(server: Postgres, code: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "DATABASE_URL": server.url("comfyserve"),
        "REDIS_URL": settings.REDIS_URL,
        "SECRET_KEY": settings.SECRET_KEY,
        "DJANGO_SETTINGS_MODULE": "comfyserve.settings",
    }
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip


def kill(server: Postgres) -> None:
    """All its processes at once, so that none of them writes anything more."""
    postmaster = int((server.folder / "postmaster.pid").read_text().split()[0])
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    for pid in [postmaster, *map(int, children)]:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: all(is_gone(int(pid)) for pid in children), what="the server's processes to be gone")


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def rows(server: Postgres) -> dict[str, Any]:
    with psycopg.connect(server.url("comfyserve")) as session:
        found = session.execute(
            "SELECT id::text, status, attempt, (SELECT count(*) FROM workflows_logline l"
            " WHERE l.execution_id = e.id AND message LIKE 'Taken%') FROM workflows_execution e"
        )
        return {id_: tuple(rest) for id_, *rest in found}


@pytest.mark.timeout(180)
def test_an_unflushed_claim_is_lost_entirely_and_acknowledged_writes_are_kept(postgres):
    process = python(postgres, BEGIN + CLAIM_AND_WAIT)
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    _, done, claimed = next(line for line in lines if line.startswith("claimed")).split()
    kill(postgres)
    process.kill()
    process.communicate(timeout=30)
    postgres.stop()
    postgres.start()
    postgres.wait()
    found = rows(postgres)
    assert found[done] == ("completed", 1, 1)
    assert found[claimed] == ("pending", 0, 0)  # neither the claim nor its line: one commit
    out, _ = python(postgres, AGAIN).communicate(timeout=60)
    assert out.splitlines()[-1] == f"{claimed} 1"


def _name_of(node: ast.AST) -> str:
    """Of a function or of a constant; empty for the rest."""
    if isinstance(node, ast.FunctionDef):
        return node.name
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id
    return ""


def test_only_what_may_be_forgotten_does_not_wait_for_the_disk():
    found = set()
    packages = ("files", "models_registry", "workflows")
    for path in (path for package in packages for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            name = _name_of(node)
            text = ast.unparse(node) if name else ""
            if "synchronous_commit" in text or "async_commit" in text:
                found.add(f"{path.relative_to(ROOT)}: {name}")
    assert found == RELAXED
