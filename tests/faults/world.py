"""All of ComfyServe as real processes, each of which can be killed, frozen and cut off by itself.

Two GPU workers on two ComfyUIs, a worker for the rest, beat, the web process, PostgreSQL, Valkey and an S3
server. What talks over a network goes through a relay that can be cut.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

import boto3
import psutil

from script.local import comfyui as local_comfyui
from script.local import comfyui_install, ports, roles
from script.local.paths import ROOT
from script.local.postgres import Postgres
from script.local.processes import Process
from script.local.s3 import S3
from script.local.valkey import Valkey
from tests.comfyui.proxy import Proxy
from tests.stack import Stack
from tests.waiting import wait_for

NODES = ROOT / "tests" / "comfyui_nodes"
BUCKET = "comfyserve"
GPUS = ("gpu-0", "gpu-1")

# Shorter than in use, so that half an hour holds as many lost leases and pauses as a month would.
QUICK = {
    "LEASE_SECONDS": "8",
    "RENEW_SECONDS": "2",
    "RESERVED_SECONDS": "12",
    "DRAIN_SECONDS": "3",
    "STALL_SECONDS": "15",
    "WEBHOOK_TIMEOUT_SECONDS": "2",
    "WEBHOOK_FIRST_DELAY_SECONDS": "0.2",
    "ACCESS_TOKEN_MINUTES": "600",
}


class ComfyUI(Protocol):
    """What is asked of one; the fixtures' and the set-up's own both do."""

    process: Process

    @property
    def url(self) -> str: ...


class Part:
    """One process of the world. `start` does not wait until it is ready."""

    def __init__(self, kind: str, name: str, start: Callable[[], Process]) -> None:
        self.kind, self.name = kind, name
        self._start = start
        self._process: Process | None = None

    def start(self) -> None:
        self._process = self._start()

    @property
    def process(self) -> Process:
        assert self._process is not None, f"{self.name} was never started"
        return self._process

    def kill(self) -> None:
        self.process.kill()

    def ask_to_stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """The signal alone; see `insist`."""
        self.process.signal(number)

    def insist(self, *, seconds: float) -> bool:
        """As a process manager does: wait until it has ended, then kill it. Whether it was killed."""
        end = time.monotonic() + seconds
        while self.process.alive and time.monotonic() < end:
            time.sleep(0.05)
        killed = self.process.alive
        self.kill()
        return killed

    def freeze(self) -> None:
        self._to_all(psutil.Process.suspend)

    def thaw(self) -> None:
        self._to_all(psutil.Process.resume)

    def _to_all(self, do: Callable[[psutil.Process], None]) -> None:
        for each in self._family():
            try:
                do(each)
            except psutil.NoSuchProcess:
                pass  # it has just ended

    def _family(self) -> list[psutil.Process]:
        """PostgreSQL is a process for each connection."""
        first = psutil.Process(self.process.pid)
        return [first, *first.children(recursive=True)]


class World:
    """`parts` and `links` by name. `comfyuis`: two that are managed elsewhere; else they are made here."""

    def __init__(self, folder: Path, *, comfyuis: Sequence[ComfyUI] = ()) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self.postgres = Postgres(folder / "postgres", port=ports.free_port(), log=self.logs / "postgres.log")
        self.valkey = Valkey(folder / "valkey", port=ports.free_port(), log=self.logs / "valkey.log")
        self.s3 = S3(folder / "s3", log=self.logs / "s3.log")
        self._own_comfyuis = not comfyuis
        self.comfyuis: list[ComfyUI] = list(comfyuis) or [self._make_comfyui(i) for i in range(len(GPUS))]
        self.parts: dict[str, Part] = {}
        self.links: dict[str, Proxy] = {}
        self._starts = 0

    # -- start and stop ------------------------------------------------------------------------------
    @contextmanager
    def running(self) -> Iterator[World]:
        try:
            self._start_stores()
            self._start_app()
            yield self
        finally:
            self._end()

    def _make_comfyui(self, number: int) -> local_comfyui.ComfyUI:
        install = comfyui_install.default_folder()
        comfyui_install.install(install)
        comfyui = local_comfyui.ComfyUI(
            self.folder / f"comfyui-{number}",
            port=ports.free_port(),
            log=self.logs / f"comfyui-{number}.log",
            nodes=sorted(NODES.glob("*.py")),
        )
        comfyui.prepare()
        return comfyui

    def _start_stores(self) -> None:
        self.postgres.prepare()
        self.valkey.prepare()
        stores: list[tuple[str, Any]] = [
            ("PostgreSQL", self.postgres), ("Valkey", self.valkey), ("storage", self.s3)
        ]  # fmt: skip
        for kind, store in stores:
            self._add(kind, kind, _starter(store))
        for i, comfyui in enumerate(self.comfyuis):
            part = self._add("ComfyUI", f"comfyui-{i}", _starter(comfyui), start_it=self._own_comfyuis)
            part._process = comfyui.process
        self.postgres.wait()
        self.valkey.wait()
        self.s3.wait()
        self.bucket.create()

    def _start_app(self) -> None:
        self._link("PostgreSQL of web", self.postgres.url())
        self._link("PostgreSQL of the rest", self.postgres.url())
        self._link("Valkey", self.valkey.url())
        self._link("storage", self.s3.url)
        for i, comfyui in enumerate(self.comfyuis):
            self._link(f"PostgreSQL of {GPUS[i]}", self.postgres.url())
            self._link(f"ComfyUI of {GPUS[i]}", comfyui.url)
        self.stack = Stack(
            folder=self.folder / "stack",
            logs=self.logs,
            database_url=self.postgres.url(),
            redis_url=self.valkey.url(),
        )
        keys = f"{self.s3.access_key}:{self.s3.secret_key}"
        self.stack.env |= QUICK | {
            "SECRET_KEY": "a key for attacks only, long enough for HMAC with SHA-256",
            "RATE_LIMITS": "off",
            "ALLOWED_HOSTS": "*",
            "LOG_FORMAT": "line",
            "STORAGE_URL": f"s3://{keys}@127.0.0.1:{self.links['storage'].port}/{BUCKET}?tls=false",
            "REDIS_URL": through(self.links["Valkey"], self.stack.env["REDIS_URL"]),
        }
        self.stack.create_database()
        self.stack.manage("migrate", "--verbosity=0")
        self._add("web", "web", self._start_web)
        self._add("other worker", "rest", self._start_rest)
        self._add("beat", "beat", self._start_beat)
        for name in GPUS:
            self._add("GPU worker", name, partial(self._start_gpu, name))
        self.wait_ready()

    def _add(self, kind: str, name: str, start: Callable[[], Process], *, start_it: bool = True) -> Part:
        part = self.parts[name] = Part(kind, name, start)
        if start_it:
            part.start()
        return part

    def _link(self, name: str, url: str) -> None:
        self.links[name] = Proxy(url)

    def _end(self) -> None:
        own = [part for part in self.parts.values() if part.kind != "ComfyUI" or self._own_comfyuis]
        for part in reversed(own):
            part.kill() if part.kind != "PostgreSQL" else self.postgres.stop()
        for link in self.links.values():
            link.__exit__()

    # -- the processes -------------------------------------------------------------------------------
    def _env(self, database: str, **more: str) -> dict[str, str]:
        url = through(self.links[f"PostgreSQL of {database}"], self.stack.database_url)
        return self.stack.env | {"DATABASE_URL": url} | more

    def _process(self, name: str, command: Sequence[str | Path], env: Mapping[str, str]) -> Process:
        """Each start has a log of its own, to be read afterwards."""
        self._starts += 1
        log = self.logs / f"{name}.{self._starts:03}.log"
        return Process(name, command, log=log, env=env, cwd=ROOT).start()

    def _start_web(self) -> Process:
        command: list[str | Path] = [
            Path(sys.executable).with_name("uvicorn"), "comfyserve.asgi:application",
            "--port", str(self.stack.port), "--no-access-log", "--no-proxy-headers", *roles.PROTOCOLS,
        ]  # fmt: skip
        return self._process("web", command, self._env("web"))

    def _start_rest(self) -> Process:
        command: list[str | Path] = [ROOT / "script" / "worker", "default,models,webhooks"]
        return self._process("rest", command, self._env("the rest"))

    def _start_beat(self) -> Process:
        command: list[str | Path] = [
            sys.executable, "-m", "celery", "-A", "comfyserve", "beat",
            "--schedule", str(self.folder / "beat"), "--pidfile", "",
        ]  # fmt: skip
        return self._process("beat", command, self._env("the rest"))

    def _start_gpu(self, name: str) -> Process:
        env = self._env(name, COMFYUI_NAME=name, COMFYUI_URL=self.links[f"ComfyUI of {name}"].url)
        return self._process(name, [ROOT / "script" / "worker", "gpu"], env)

    # -- what is asked -------------------------------------------------------------------------------
    @property
    def bucket(self) -> Any:
        """Around the relay."""
        resource = boto3.resource(
            "s3",
            endpoint_url=self.s3.url,
            aws_access_key_id=self.s3.access_key,
            aws_secret_access_key=self.s3.secret_key,
            region_name="us-east-1",
        )
        return resource.Bucket(BUCKET)

    def sql(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return self.stack.sql(query, *parameters)

    def tend(self, *, but: Collection[str] = ()) -> list[str]:
        """As a process manager does: start again what has ended by itself. Its names."""
        ended = [part for part in self.parts.values() if part.name not in but and not part.process.alive]
        for part in ended:
            part.start()
        return [part.name for part in ended]

    def wait_ready(self, *, seconds: float = 120) -> None:
        """Until both GPU workers have their ComfyUI, and the web process answers."""
        wait_for(lambda: ports.answers("127.0.0.1", self.stack.port), seconds=seconds, what="the web process")
        fresh = (
            "SELECT count(*) FROM workflows_worker WHERE reachable AND heartbeat_at > now() - '6 s'::interval"
        )
        wait_for(lambda: self.sql(fresh) == [(len(GPUS),)], seconds=seconds, what="both GPU workers")


def _starter(store: Any) -> Callable[[], Process]:
    def start() -> Process:
        store.process.start() if not hasattr(store, "access_key") else store.start()
        process: Process = store.process
        return process

    return start


def through(link: Proxy, url: str) -> str:
    """The address, with the relay's port."""
    parts = urlsplit(url)
    credentials, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{credentials}{at}127.0.0.1:{link.port}"))


def comfyui_lines(world: World, said: str) -> int:
    """How often that was said in the logs of both ComfyUIs."""
    return sum(comfyui.process.log.read_text(errors="replace").count(said) for comfyui in world.comfyuis)
