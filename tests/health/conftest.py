"""A ComfyServe with servers of its own, which tests may stop."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
import requests

from health import celery_beats
from script.harness.stack import Stack
from script.harness.waiting import wait_for
from script.local import ports
from script.local.postgres import Postgres
from script.local.processes import Process
from script.local.s3 import S3
from script.local.valkey import Valkey
from tests.files.conftest import make_bucket, storage_url


@dataclass
class Own:
    """Real servers, each of which can be stopped, frozen and started again."""

    postgres: Postgres
    valkey: Valkey
    s3: S3
    stack: Stack

    def get(self, path: str, **options: Any) -> requests.Response:
        return requests.get(self.stack.url + path, timeout=10, **options)

    def says(self, path: str, status: int) -> requests.Response:
        """The answer, once the endpoint has that status."""

        def look() -> list[requests.Response]:
            answer = self.get(path)
            return [answer] if answer.status_code == status else []  # a response of 503 itself is falsy

        return wait_for(look, seconds=60, what=f"{path} to answer {status}")[0]

    @contextmanager
    def frozen(self, *servers: Process) -> Iterator[None]:
        """They hold all their connections, take new ones, and say nothing."""
        everyone: list[psutil.Process] = []
        try:
            for server in servers:
                first = psutil.Process(server.pid)
                everyone.append(first)
                first.suspend()  # before its children are listed: it starts no more of them
                children = first.children(recursive=True)
                everyone += children
                _to_all(children, psutil.Process.suspend)
            yield
        finally:
            _to_all(everyone, psutil.Process.resume)

    @contextmanager
    def without_a_migration(self) -> Iterator[str]:
        """The newest of `workflows` counts as not applied meanwhile; its name."""
        [(name,)] = self.stack.sql(
            "DELETE FROM django_migrations WHERE app = 'workflows' AND name ="
            " (SELECT max(name) FROM django_migrations WHERE app = 'workflows') RETURNING name"
        )
        try:
            yield name
        finally:
            self.stack.manage("migrate", "--fake", "--verbosity=0")

    def detailed(self) -> dict[str, Any]:
        return self.get("/health/detailed").json()

    def service(self, name: str, condition: str, *, seconds: float = 30) -> dict[str, Any]:
        """The whole detailed answer, once the service is in that condition."""

        def look() -> dict[str, Any] | None:
            body = self.detailed()
            return body if conditions(body).get(name) == condition else None

        return wait_for(look, seconds=seconds, what=f"{name} to be {condition}")

    def unwell(self, names: frozenset[str]) -> dict[str, Any]:
        """The whole detailed answer, once these services and no others are not healthy."""

        def look() -> dict[str, Any] | None:
            body = self.detailed()
            found = {name for name, condition in conditions(body).items() if condition != "healthy"}
            return body if found == names else None

        return wait_for(look, seconds=60, what=f"{sorted(names)} alone to be unwell")

    def silent_for(self, queue: str, *, seconds: float) -> None:
        """As if the worker of the queue, which was killed, had last been heard so much longer ago."""
        if queue == "gpu":
            self.stack.sql(
                "UPDATE workflows_worker SET heartbeat_at = heartbeat_at - %s * interval '1 s'", seconds
            )
        with redis.Redis.from_url(self.stack.env["REDIS_URL"]) as client:
            for name, told in client.hgetall(celery_beats.KEY).items():
                beat = json.loads(told)
                if queue in beat["queues"]:
                    client.hset(celery_beats.KEY, name, json.dumps(beat | {"at": beat["at"] - seconds}))

    def end_workers(self) -> None:
        """Those too that earlier tests have left for later ones."""
        for worker in self.stack.workers.values():
            worker.kill()
        self.stack.workers.clear()

    def all_well(self) -> None:
        """Start again what a test has stopped, and wait until it is seen."""
        if not self.postgres.process.alive:
            self.postgres.start()
            self.postgres.wait()
        if not self.valkey.process.alive:
            self.valkey.start()
            self.valkey.wait()
        if not self.s3.process.alive:
            self.s3.start()
            self.s3.wait()


def _to_all(processes: Sequence[psutil.Process], do: Callable[[psutil.Process], None]) -> None:
    for each in processes:
        try:
            do(each)
        except psutil.NoSuchProcess:
            pass  # a session of PostgreSQL's that has just ended


def conditions(body: dict[str, Any]) -> dict[str, str]:
    return {service["name"]: service["status"] for service in body["services"]}


@pytest.fixture(scope="package")
def _own() -> Iterator[Own]:
    # Not under pytest's own folder, which other runs of pytest close to PostgreSQL's account.
    folder = Path(tempfile.mkdtemp(prefix="comfyserve-own-"))
    logs = folder / "logs"
    postgres = Postgres(folder / "postgres", port=ports.free_port(), log=logs / "postgres.log", durable=False)
    valkey = Valkey(folder / "valkey", port=ports.free_port(), log=logs / "valkey.log")
    s3 = S3(folder / "s3", log=logs / "s3.log")
    postgres.prepare()
    valkey.prepare()
    stack = Stack(folder=folder / "stack", logs=logs, database_url=postgres.url(), redis_url=valkey.url())
    stack.env["STORAGE_URL"] = storage_url(s3)
    try:
        for server in (postgres, valkey, s3):
            server.start()
        for server in (postgres, valkey, s3):
            server.wait()
        make_bucket(s3)
        stack.start()
        yield Own(postgres, valkey, s3, stack)
    finally:
        stack.stop()
        postgres.stop()
        valkey.stop()
        s3.process.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def own(_own: Own) -> Iterator[Own]:
    _own.all_well()
    _own.stack.start_web()
    _own.stack.sql("DELETE FROM workflows_worker WHERE name <> 'gpu-1'")  # of workers of earlier tests
    yield _own
    _own.stack.end_of_test()
