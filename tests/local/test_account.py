"""The account that PostgreSQL runs under where we are root."""

from __future__ import annotations

import os
import pwd
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from script.local import postgres


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes accounts")
def test_two_starts_at_the_same_moment_make_the_account_once(tmp_path: Path, monkeypatch) -> None:
    """`useradd` fails if the account is there by then, or if another one runs."""
    found, run, us = pwd.getpwnam, subprocess.run, pwd.getpwuid(0)
    made, second_looked, looks = threading.Event(), threading.Event(), []

    def getpwnam(name: str) -> pwd.struct_passwd:
        if name != postgres._ACCOUNT:
            return found(name)
        looks.append(name)
        if len(looks) > 1:
            second_looked.set()
        if made.is_set():
            return us
        raise KeyError(name)

    def useradd(command: Any, **options: Any) -> Any:
        if command[0] != "useradd":
            return run(command, **options)
        # The other start must not get this far; without a lock it does at once.
        failed = made.is_set() or second_looked.wait(1)
        made.set()
        return subprocess.CompletedProcess(command, 9 if failed else 0, "", "user exists")

    monkeypatch.setattr(pwd, "getpwnam", getpwnam)
    monkeypatch.setattr(subprocess, "run", useradd)
    monkeypatch.setattr(postgres, "ACCOUNT_LOCK", tmp_path / "lock")
    servers = []
    for name in ("one", "other"):
        folder = tmp_path / name / "postgres"
        folder.mkdir(parents=True)
        (folder / "PG_VERSION").touch()  # there already: only the account is missing
        servers.append(postgres.Postgres(folder, port=1, log=tmp_path / name / "log"))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda server: server.prepare(), servers))
    assert made.is_set()
