"""A PostgreSQL data folder with the migrated database, made once per run and copied by each of its processes.

`initdb` and the migrations take six seconds of processor time. With `-n`, the process that hands out the
tests makes the folder while the others collect. It belongs to the run and ends with it, so it is never stale.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

from script.local.paths import ROOT
from script.local.postgres import Postgres

DATABASE = "comfyserve_migrated"
MIGRATE_SECONDS = 300  # a few, unless the machine is overloaded
# The processes that run tests inherit the folder's name.
_VARIABLE = "TEST_MIGRATED_POSTGRES"


class Template:
    """The maker's side. The lock file is locked until the folder is complete or cannot be made."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        self._lock = _lock_of(postgres.folder).open("w")

    def begin(self) -> None:
        """Make it in a thread; processes started from now on know of it."""
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        os.environ[_VARIABLE] = str(self._postgres.folder)
        threading.Thread(target=self._make, daemon=True).start()

    def _make(self) -> None:
        try:
            self._postgres.prepare()
            # The kernel stops the server with the thread that started it: this one outlives it.
            self._postgres.start()
            self._postgres.wait()
            self._postgres.create_database(DATABASE)
            subprocess.run(
                [sys.executable, ROOT / "manage.py", "migrate", "--verbosity=0"],
                env=os.environ | {"DATABASE_URL": self._postgres.url(DATABASE)},
                check=True,
                timeout=MIGRATE_SECONDS,
            )
            self._postgres.stop()
            _complete(self._postgres.folder).touch()
        finally:
            self._lock.close()


class Copy:
    """The side of a process that runs tests."""

    def __init__(self, template: Path, folder: Path) -> None:
        self._template = template
        self._folder = folder
        shutil.copy2(_password_of(template), _password_of(folder))

    def make(self) -> None:
        """Wait for the template and copy it. RuntimeError if it could not be made; its maker says why."""
        with _lock_of(self._template).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
        if not _complete(self._template).exists():
            raise RuntimeError("The migrated PostgreSQL folder could not be made: see the error above")
        # `cp` keeps the owner, which is PostgreSQL's own account where we are root.
        subprocess.run(["cp", "-a", "--reflink=auto", self._template, self._folder], check=True)


def inherited(folder: Path) -> Copy | None:
    """How to make `folder` a copy of the run's template, if it has one."""
    template = os.environ.pop(_VARIABLE, None)
    return Copy(Path(template), folder) if template else None


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _complete(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.complete")


def _password_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.password")
