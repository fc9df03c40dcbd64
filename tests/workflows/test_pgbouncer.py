"""A real PgBouncer before PostgreSQL: what needs sessions of its own says so at start and takes no work."""

from __future__ import annotations

import logging
import os
import pwd
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import connection, connections

from comfyserve.db import pooling
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
def behind_pgbouncer(transactional_db, monkeypatch, tmp_path) -> Iterator[Behind]:
    """From the call on, what asks where the database is gets PgBouncer's address."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(mode: str, *, ignore_options: bool = True) -> None:
        given: dict[str, Any] = connection.get_connection_params()
        port = ports.free_port()
        running.append(start(tmp_path, given, port=port, mode=mode, ignore_options=ignore_options))
        moved = given | {"host": "127.0.0.1", "port": port}
        # Of the class: each thread has a connection of its own.
        monkeypatch.setattr(type(connections["default"]), "get_connection_params", lambda _: dict(moved))

    yield begin
    for process in running:
        process.kill()
        process.wait(timeout=10)


def start(
    folder: Path, database: dict[str, Any], *, port: int, mode: str, ignore_options: bool
) -> subprocess.Popen[bytes]:
    users = folder / "users.txt"
    users.write_text(f'"{database["user"]}" "{database["password"]}"\n')
    ignored = "extra_float_digits,options" if ignore_options else "extra_float_digits"
    configuration = folder / "pgbouncer.ini"
    sessions = 2 if mode == "session" else 1
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
        for path in [folder, *folder.parents][:4]:
            path.chmod(path.stat().st_mode | 0o011)
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


def test_a_worker_behind_it_says_so_and_takes_nothing(rig, behind_pgbouncer, caplog):
    rig.slots.taking = False
    waiting = rig.submit(graphs.colour(1))
    behind_pgbouncer("transaction")
    maintenance = Maintenance(rig.slots)
    maintenance.start()
    try:
        wait_for(lambda: "claims no work" in caplog.text, seconds=20, what="the error at start")
        rig.slots.serve()
        assert not rig.slots.taking
        assert rig.status(waiting) == "pending"
    finally:
        maintenance.stop()


def test_a_web_process_behind_it_says_so_at_its_start(behind_pgbouncer, caplog):
    behind_pgbouncer("transaction")
    with caplog.at_level(logging.ERROR):
        pooling.report()
    assert "shares PostgreSQL's sessions" in caplog.text
