"""A real PgBouncer before PostgreSQL: what needs sessions of its own says so at start and takes no work."""

from __future__ import annotations

import logging
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import OperationalError, connection, connections

from comfyserve.db import pooling, sessions
from script.harness import graphs
from script.harness.waiting import wait_for
from script.local import ports
from tests.workflows.test_row_locks import another_session
from workflows.worker.maintenance import Maintenance

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs PgBouncer (Debian: pgbouncer)")
ACCOUNT = "nobody"  # it refuses to run as root

Behind = Callable[..., None]


@pytest.fixture
def behind_pgbouncer(transactional_db, open_folder) -> Iterator[Behind]:
    """From the call on, what asks where the database is gets PgBouncer's address."""
    running: list[subprocess.Popen[bytes]] = []
    patch = pytest.MonkeyPatch()  # undone before the database is emptied, unlike the fixture of that name

    def begin(mode: str, *, ignore_options: bool = True, sessions: int = 0) -> None:
        given: dict[str, Any] = connection.get_connection_params()
        port = ports.free_port()
        running.append(
            start(open_folder, given, port=port, mode=mode, ignore_options=ignore_options, sessions=sessions)
        )
        moved = given | {"host": "127.0.0.1", "port": port}
        # Of the class: each thread has a connection of its own.
        patch.setattr(type(connections["default"]), "get_connection_params", lambda _: dict(moved))

    yield begin
    patch.undo()
    for process in running:
        process.kill()
        process.wait(timeout=10)


def start(
    folder: Path, database: dict[str, Any], *, port: int, mode: str, ignore_options: bool, sessions: int
) -> subprocess.Popen[bytes]:
    users = folder / "users.txt"
    users.write_text(f'"{database["user"]}" "{database["password"]}"\n')
    ignored = "extra_float_digits,options" if ignore_options else "extra_float_digits"
    configuration = folder / "pgbouncer.ini"
    sessions = sessions or (2 if mode == "session" else 1)
    configuration.write_text(
        f"""[databases]
{database["dbname"]} = host={database["host"]} port={database["port"]} pool_size={sessions}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
pool_mode = {mode}
ignore_startup_parameters = {ignored}
"""
    )
    account = pwd.getpwnam(ACCOUNT) if os.geteuid() == 0 else None
    if account:
        for path in (users, configuration):
            shutil.chown(path, account.pw_uid, account.pw_gid)
        folder.chmod(folder.stat().st_mode | 0o011)
    assert PROGRAM is not None
    with (folder / "pgbouncer.log").open("wb") as log:
        process = subprocess.Popen(
            [PROGRAM, str(configuration)],
            user=account.pw_uid if account else None,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
    wait_for(lambda: ports.answers("127.0.0.1", port), seconds=20, what="PgBouncer")
    return process


@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_shared_sessions_are_noticed(behind_pgbouncer, mode):
    behind_pgbouncer(mode)
    with pytest.raises(pooling.SharedSessions, match="shares PostgreSQL's sessions"):
        pooling.check()


def test_dropped_settings_are_noticed_in_session_mode(behind_pgbouncer):
    behind_pgbouncer("session")
    with pytest.raises(pooling.SharedSessions, match="settings"):
        pooling.check()


def test_rejected_settings_are_explained(behind_pgbouncer):
    """PgBouncer's own message names a startup parameter, and not what to do."""
    behind_pgbouncer("session", ignore_options=False)
    with pytest.raises(pooling.SharedSessions, match="settings"):
        pooling.check()


def test_session_mode_works_if_the_database_has_our_timeouts(behind_pgbouncer):
    name = connection.settings_dict["NAME"]
    with another_session() as session:
        session.autocommit = True
        session.execute(f'ALTER DATABASE "{name}" SET lock_timeout = 5000')
    try:
        behind_pgbouncer("session")
        pooling.check()
    finally:
        with psycopg.connect(**original(), autocommit=True) as session:
            session.execute(f'ALTER DATABASE "{name}" RESET lock_timeout')


def original() -> dict[str, Any]:
    given = connection.settings_dict
    return {
        "dbname": given["NAME"], "user": given["USER"], "password": given["PASSWORD"],
        "host": given["HOST"], "port": given["PORT"],
    }  # fmt: skip


def test_a_worker_behind_a_pooler_logs_an_error_and_claims_nothing(rig, behind_pgbouncer, caplog):
    rig.slots.claiming = False
    waiting = rig.submit(graphs.colour(1))
    behind_pgbouncer("transaction")
    maintenance = Maintenance(rig.slots)
    maintenance.start()
    try:
        wait_for(lambda: "claims no work" in caplog.text, seconds=20, what="the error at start")
        rig.slots.serve()
        assert not rig.slots.claiming
        assert rig.status(waiting) == "pending"
    finally:
        maintenance.stop()


def test_a_web_process_behind_a_pooler_warns_at_startup(behind_pgbouncer, caplog):
    behind_pgbouncer("transaction")
    with caplog.at_level(logging.ERROR):
        pooling.report()
    assert "shares PostgreSQL's sessions" in caplog.text


@contextmanager
def all_sessions_taken() -> Iterator[None]:
    """By a client that keeps PgBouncer's only one."""
    with psycopg.connect(**pooling.parameters(), autocommit=True) as session:
        session.execute("SELECT 1")
        yield


@contextmanager
def new_connection(monkeypatch: pytest.MonkeyPatch, **options: Any) -> Iterator[Any]:
    """A connection of Django's that was not open before, with these options."""
    before = connections["default"]
    made: Any = before.copy()
    kept = {name: value for name, value in made.settings_dict["OPTIONS"].items() if name != "pool"}
    made.settings_dict["OPTIONS"] = kept | options
    with monkeypatch.context() as patched:
        patched.setattr(type(made), "_connection_pools", {})
        connections["default"] = made
        try:
            yield made
        finally:
            made.close()
            made.close_pool()
            connections["default"] = before


@pytest.fixture
def one_session(behind_pgbouncer, monkeypatch) -> None:
    monkeypatch.setattr(sessions, "FIRST_ANSWER_SECONDS", 0.5)
    behind_pgbouncer("session", sessions=1)


def test_a_free_session_of_a_pooler_is_waited_for_only_so_long(one_session, monkeypatch):
    """PgBouncer accepts the login, and lets the first statement wait for two minutes."""
    with all_sessions_taken(), new_connection(monkeypatch) as made:
        began = time.monotonic()
        with pytest.raises(OperationalError, match="no free session"):
            made.cursor().execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError, match="no free session"):
            pooling.check()
        assert time.monotonic() - began < 30


def test_a_pool_that_gets_no_session_from_a_pooler_logs_why(one_session, monkeypatch, caplog):
    pool = {"min_size": 1, "max_size": 2, "timeout": 1.0}
    with all_sessions_taken(), new_connection(monkeypatch, pool=pool) as made:
        with pytest.raises(OperationalError):
            made.cursor().execute("SELECT 1")
        wait_for(lambda: "no free session" in caplog.text, what="the reason in the log")
