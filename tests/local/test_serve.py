from __future__ import annotations

import os
import re
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import requests

from script.harness.waiting import wait_for
from script.local import ports
from script.local.processes import Process
from tests.local import commands

NOBODY = "http://127.0.0.1:9"  # no ComfyUI answers here; serve starts all the same
READY_SECONDS = 90

pytestmark = pytest.mark.timeout(400)


class Served:
    """A running script/serve."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.port = ports.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: Process = commands.prepared("serve", data, PORT=str(self.port), COMFYUI_URL=NOBODY)

    def start(self) -> None:
        """Start it and wait until it is ready, unless it runs."""
        if not self.process.alive:
            self.process.log.unlink(missing_ok=True)
            self.process.start()
            self.wait()

    def output(self) -> str:
        return "\n".join(self.process.tail(100))

    def wait(self) -> None:
        self.process.wait_until(lambda: "Ctrl-C stops everything" in self.output(), seconds=READY_SECONDS)


@pytest.fixture(scope="module")
def data(folder: Path) -> Path:
    return folder / "var"


@pytest.fixture(scope="module")
def served(data: Path) -> Iterator[Served]:
    served = Served(data)
    try:
        served.start()
        yield served
    finally:
        served.process.stop(seconds=60)


def test_it_answers_where_it_says(served: Served) -> None:
    assert served.url in served.output()
    assert requests.get(f"{served.url}/admin/login/", timeout=20).status_code == 200
    assert "script/manage createsuperuser" in served.output()


def test_flower_answers_where_it_says_and_asks_for_its_password(served: Served) -> None:
    [address] = re.findall(r"Flower +(http\S+)", served.output())
    wait_for(lambda: ports.answers("127.0.0.1", urlsplit(address).port), seconds=60, what="Flower")
    assert requests.get(address, timeout=20).status_code == 401
    password = (served.data / "flower-password").read_text()
    assert requests.get(address, auth=("operator", password), timeout=20).status_code == 200


def test_it_answers_only_under_names_of_this_machine(served: Served) -> None:
    """Otherwise a web page could reach it from its visitor's browser, under a name that leads here (DNS
    rebinding)."""
    for host in ("attacker.example", "localhost.attacker.example", "127.0.0.1.nip.io", "10.0.0.1", ""):
        for path in (
            "/auth/me",
            "/admin/login/",
            "/health/detailed",
            "/apps/",
            "/comfyui/system_stats",
            "/files/x",
        ):
            answer = requests.get(f"{served.url}{path}", headers={"Host": host}, timeout=20)
            assert answer.status_code == 400, f"{host!r} at {path}"
    for host in ("localhost", "127.0.0.1", "[::1]", f"localhost:{served.port}"):
        assert requests.get(f"{served.url}/admin/login/", headers={"Host": host}, timeout=20).ok
    # Load balancers ask by address.
    assert requests.get(f"{served.url}/health/liveness", headers={"Host": "10.0.0.1"}, timeout=20).ok


def test_its_secrets_are_for_its_owner_only(served: Served) -> None:
    secrets = (
        "secret-key",
        "flower-password",
        "postgres.password",
        "valkey/valkey.conf",
        "run/environment.json",
    )
    modes = {name: stat.S_IMODE((served.data / name).stat().st_mode) for name in secrets}
    assert modes == dict.fromkeys(secrets, 0o600)


def test_processes_that_die_are_restarted(served: Served) -> None:
    def web() -> int | None:
        for process in psutil.Process(served.process.pid).children(recursive=True):
            try:
                if "comfyserve.asgi:application" in process.cmdline():
                    return process.pid
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        return None

    first = wait_for(web, seconds=40)
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: web() not in (None, first), seconds=60, what="another web process")
    wait_for(lambda: ports.answers("127.0.0.1", served.port), seconds=60, what="the web process's port")


def test_a_second_instance_in_the_same_data_dir_is_rejected(served: Served) -> None:
    done = commands.run("serve", data=served.data, PORT=str(ports.free_port()), COMFYUI_URL=NOBODY)
    assert done.returncode == 1
    assert "already runs" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_occupied_port_is_reported_and_leaves_nothing_running(served: Served, tmp_path: Path) -> None:
    done = commands.run("serve", data=tmp_path / "other", PORT=str(served.port), COMFYUI_URL=NOBODY)
    assert done.returncode == 1
    assert f"Port {served.port} is taken" in done.stderr
    assert commands.processes_of(tmp_path / "other") == []


def test_manage_finds_the_running_database(served: Served) -> None:
    code = "from accounts.models import User; print(User.objects.count())"
    done = commands.run("manage", "shell", "-v0", "-c", code, data=served.data)
    assert done.stdout.strip() == "0", done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_cleanly_and_leaves_nothing(data: Path, served: Served, number: signal.Signals) -> None:
    served.start()
    served.process.signal(number)
    wait_for(lambda: not served.process.alive, seconds=60, what="the end of script/serve")
    assert served.process.code == 0
    assert commands.processes_of(data) == []


def test_nothing_outlives_it_when_it_is_killed(data: Path, served: Served) -> None:
    served.start()
    os.kill(served.process.pid, signal.SIGKILL)
    wait_for(lambda: commands.processes_of(data) == [], seconds=60, what="the end of all it started")
