"""All of ComfyServe as real processes, each of which can be killed, frozen and disconnected separately.

Two GPU workers on two ComfyUIs, a worker for the rest, beat, the web process, PostgreSQL, Valkey and an S3
server. Network traffic passes through a relay that can be cut, stalled and slowed; in front of one ComfyUI is
an HTTP proxy that fails as proxies do. If mounting is permitted, PostgreSQL and ComfyUI's outputs have small
disks of their own, which can be filled.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

import boto3

from script.fault_injection.clocks import Clocks
from script.fault_injection.disks import Disk
from script.fault_injection.http_proxy import HttpProxy
from script.fault_injection.parts import Part
from script.harness.relay import Proxy
from script.harness.stack import DATABASE, Person, Stack
from script.harness.waiting import wait_for
from script.local import comfyui as local_comfyui
from script.local import comfyui_install, ports, roles
from script.local.paths import ROOT
from script.local.postgres import Postgres
from script.local.processes import Process
from script.local.s3 import S3
from script.local.valkey import Valkey

NODES = ROOT / "tests" / "comfyui_nodes"
BUCKET = "comfyserve"
GPUS = ("gpu-0", "gpu-1")
PROXIED = ("gpu-1",)  # their ComfyUI is behind an HTTP proxy; the others reach it directly

# Shorter than in production, so that half an hour has as many lost leases and pauses as a month.
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
    """The interface of a ComfyUI, implemented by the fixtures' and by our own."""

    process: Process

    @property
    def url(self) -> str: ...


# More is lost when the server is killed: relaxed commits reach the disk only after this long.
POSTGRES_SETTINGS = {"wal_writer_delay": "10s", "max_wal_size": "64MB", "min_wal_size": "32MB"}
MEGABYTES_OF_POSTGRES, MEGABYTES_OF_OUTPUTS = 600, 64


class Cluster:
    """`parts` and `links` by name. `comfyuis`: two managed elsewhere, else they are created here."""

    def __init__(self, folder: Path, *, comfyuis: Sequence[ComfyUI] = ()) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self.clocks = Clocks(folder / "clocks")
        self.disks: dict[str, Disk] = {}
        self.postgres = Postgres(
            folder / "postgres" / "data",
            port=ports.free_port(),
            log=self.logs / "postgres.log",
            settings=POSTGRES_SETTINGS,
            env=self.clocks.at_real_time("PostgreSQL"),
        )
        self.valkey = Valkey(folder / "valkey", port=ports.free_port(), log=self.logs / "valkey.log")
        self.s3 = S3(folder / "s3", log=self.logs / "s3.log")
        self._own_comfyuis = not comfyuis
        self.comfyuis: list[ComfyUI] = list(comfyuis) or [self._make_comfyui(i) for i in range(len(GPUS))]
        self.parts: dict[str, Part] = {}
        self.links: dict[str, Proxy] = {}
        self.proxies: dict[str, HttpProxy] = {}  # by GPU worker
        self._starts = 0
        self._numbers = itertools.count(0x7F0000)  # executions submitted by the faults themselves

    # -- start and stop ------------------------------------------------------------------------------
    @contextmanager
    def running(self) -> Iterator[Cluster]:
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
        self._mount("ComfyUI disk", f"comfyui-{number}", comfyui.folder / "output", MEGABYTES_OF_OUTPUTS)
        return comfyui

    def _mount(self, kind: str, target: str, folder: Path, megabytes: int) -> None:
        disk = Disk(folder, megabytes=megabytes)
        if disk.mount():
            self.disks[f"{kind} of {target}"] = disk

    def _start_stores(self) -> None:
        self._mount("PostgreSQL disk", "PostgreSQL", self.postgres.folder.parent, MEGABYTES_OF_POSTGRES)
        self.postgres.prepare()
        self.valkey.prepare()
        stores: list[tuple[str, Any]] = [
            ("PostgreSQL", self.postgres), ("Valkey", self.valkey), ("storage", self.s3)
        ]  # fmt: skip
        for kind, store in stores:
            self._add(kind, kind, _starter(store))
        for i, comfyui in enumerate(self.comfyuis):
            part = self._add("ComfyUI", f"comfyui-{i}", _starter(comfyui), start_it=self._own_comfyuis)
            part.adopt(comfyui.process)
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
            url = comfyui.url
            if GPUS[i] in PROXIED:
                self.proxies[GPUS[i]] = HttpProxy(url)
                url = self.proxies[GPUS[i]].url
            self._link(f"ComfyUI of {GPUS[i]}", url)
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
        for proxy in self.proxies.values():
            proxy.close()
        for link in self.links.values():
            link.__exit__()
        for disk in self.disks.values():
            disk.unmount()

    # -- the processes -------------------------------------------------------------------------------
    def _env(self, database: str, **more: str) -> dict[str, str]:
        url = through(self.links[f"PostgreSQL of {database}"], self.stack.database_url)
        return self.stack.env | {"DATABASE_URL": url} | more

    def _process(self, name: str, command: Sequence[str | Path], env: dict[str, str]) -> Process:
        """Each start has its own log, read afterwards."""
        self._starts += 1
        log = self.logs / f"{name}.{self._starts:03}.log"
        return Process(name, command, log=log, env=env | self.clocks.environment(name), cwd=ROOT).start()

    def _start_web(self) -> Process:
        command: list[str | Path] = [
            Path(sys.executable).with_name("uvicorn"), "comfyserve.asgi:application",
            "--port", str(self.stack.port), *roles.WEB_OPTIONS,
        ]  # fmt: skip
        return self._process("web", command, self._env("web"))

    def _start_rest(self) -> Process:
        command: list[str | Path] = [ROOT / "script" / "worker", "default,models,webhooks"]
        return self._process("rest", command, self._env("the rest"))

    def _start_beat(self) -> Process:
        command: list[str | Path] = [
            sys.executable, "-m", "comfyserve.beat",
            "--schedule", str(self.folder / "beat"), "--pidfile", "",
        ]  # fmt: skip
        return self._process("beat", command, self._env("the rest"))

    def _start_gpu(self, name: str) -> Process:
        env = self._env(name, COMFYUI_NAME=name, COMFYUI_URL=self.links[f"ComfyUI of {name}"].url)
        return self._process(name, [ROOT / "script" / "worker", "gpu"], env)

    # -- queries -------------------------------------------------------------------------------------
    @property
    def bucket(self) -> Any:
        """Bypassing the relay."""
        resource = boto3.resource(
            "s3",
            endpoint_url=self.s3.url,
            aws_access_key_id=self.s3.access_key,
            aws_secret_access_key=self.s3.secret_key,
            region_name="us-east-1",
        )
        return resource.Bucket(BUCKET)

    @property
    def database_url(self) -> str:
        """Bypassing the relay, as the superuser."""
        return self.postgres.url(DATABASE)

    def sql(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return self.stack.sql(query, *parameters)

    @cached_property
    def operator(self) -> Person:
        """A separate user, for faults and checks that need executions of their own."""
        return self.stack.person("operator")

    def next_number(self) -> int:
        """For the metadata of our executions, to tell them from the clients'."""
        return next(self._numbers)

    def restart_ended(self, *, but: Collection[str] = ()) -> list[str]:
        """Restart what has exited, as a process manager does; returns the names."""
        ended = [part for part in self.parts.values() if part.name not in but and not part.process.alive]
        for part in ended:
            part.start()
        return [part.name for part in ended]

    def wait_ready(self, *, seconds: float = 120) -> None:
        """Until both GPU workers have reached their ComfyUI, and the web process responds."""
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
    """The URL, with the relay's port."""
    parts = urlsplit(url)
    credentials, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{credentials}{at}127.0.0.1:{link.port}"))


def comfyui_lines(cluster: Cluster, said: str) -> int:
    """How often this text occurs in the logs of both ComfyUIs."""
    return sum(comfyui.process.log.read_text(errors="replace").count(said) for comfyui in cluster.comfyuis)
