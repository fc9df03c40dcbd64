"""ComfyServe as in production: a web process and workers, each a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import requests

from script.harness.waiting import wait_for
from script.local import ports, roles
from script.local.paths import ROOT
from script.local.processes import Process

DATABASE = "comfyserve_stack"


class Stack:
    """The processes, their database, and clients. Created once per test run by the fixture `stack`."""

    def __init__(self, *, folder: Path, logs: Path, database_url: str, redis_url: str) -> None:
        self.logs = logs
        self.port = ports.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._server_url = database_url
        self.database_url = _with_path(database_url, DATABASE)
        self.env = os.environ | {
            "DATABASE_URL": self.database_url,
            "REDIS_URL": _with_path(redis_url, "1"),
            "DATA_DIR": str(folder),
            "PORT": str(self.port),
            # An address for the tests' own receivers; all other internal addresses stay blocked.
            "OUTBOUND_ALLOW": "127.0.0.77",
            "WEBHOOK_HTTPS_ONLY": "false",
            # Longer than a busy machine delays the tests' receivers: a second call would be no fault.
            "WEBHOOK_TIMEOUT_SECONDS": "4",
            "WEBHOOK_FIRST_DELAY_SECONDS": "0.05",
            # Each user's own app of that name.
            "OPENAI_MODELS": "gpt-image-1=gpt-image-1-app,dall-e-3=gpt-image-1-app",
        }
        self.web: Process | None = None
        self.workers: dict[str, Process] = {}
        self._kept: dict[str, str | None] = {}  # worker name -> its ComfyUI
        self._people = 0

    # -- processes ----------------------------------------------------------------------------------
    def start(self, *, template: str | None = None) -> None:
        """Create the database, then start the web process. `template`: a migrated database of the same
        server, which is copied instead of running the migrations."""
        self.create_database(template or "template1")
        if template is None:
            self.manage("migrate", "--verbosity=0")
        self.start_web()

    def create_database(self, template: str = "template1") -> None:
        """Replace the database with a copy of `template`, by default an empty one."""
        copy_database(self._server_url, template, DATABASE)

    def manage(self, *arguments: str, env: dict[str, str] | None = None) -> str:
        """Run `manage.py` on the stack's database; returns its output. AssertionError if it fails."""
        done = subprocess.run(
            [sys.executable, ROOT / "manage.py", *arguments],
            env=self.env | (env or {}),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def celery(self, *arguments: str) -> str:
        """The output of `celery`, whatever its exit code."""
        command = [sys.executable, "-m", "celery", "-A", "comfyserve", *arguments]
        done = subprocess.run(command, env=self.env, cwd=ROOT, capture_output=True, text=True, timeout=60)
        return done.stdout + done.stderr

    def start_web(self, *, env: dict[str, str] | None = None) -> Process:
        """The web process; started if necessary. With `env` it is restarted with these additional
        variables.
        """
        if self.web is not None and self.web.alive and env is None:
            return self.web
        if self.web is not None:
            self.web.stop()
        command: list[str | Path] = [
            Path(sys.executable).with_name("uvicorn"), "comfyserve.asgi:application",
            "--port", str(self.port), *roles.WEB_OPTIONS,
        ]  # fmt: skip
        self.web = Process(
            "web", command, log=self.logs / "web.log", env=self.env | (env or {}), cwd=ROOT
        ).start()
        self.web.wait_until(lambda: ports.answers("127.0.0.1", self.port), seconds=60)
        return self.web

    def stop_web(self) -> None:
        """Stop one that was started with variables of its own: the next caller starts another."""
        if self.web is not None:
            self.web.stop()

    def start_worker(
        self,
        name: str = "gpu",
        *,
        comfyui_url: str | None = None,
        queues: str = "gpu",
        env: dict[str, str] | None = None,
        keep: bool = False,
        wait: bool = True,
    ) -> Process:
        """Start `script/worker QUEUES` under the name `name`; one that still runs is returned unchanged.

        It is stopped after the test, unless `keep` is set. Without `wait` it is returned before it is ready.
        """
        running = self.workers.get(name)
        if running is not None and running.alive:
            return running
        variables = self.env | (env or {})
        if comfyui_url:
            variables["COMFYUI_URL"] = comfyui_url
            self._make_way(name, comfyui_url)
        log = self.logs / f"worker-{name}.log"
        log.unlink(missing_ok=True)
        worker = Process(
            f"worker {name}", [ROOT / "script" / "worker", queues], log=log, env=variables
        ).start()
        self.workers[name] = worker
        if keep:
            self._kept[name] = comfyui_url
        if wait:
            worker.wait_until(lambda: any(" ready." in line for line in worker.tail()), seconds=60)
        return worker

    def _make_way(self, name: str, comfyui_url: str) -> None:
        """A backend has one worker: one kept for other tests would hold its lock."""
        for other in [other for other, url in self._kept.items() if url == comfyui_url and other != name]:
            del self._kept[other]
            if other in self.workers:
                self.workers.pop(other).stop()

    def stop_workers(self) -> None:
        """Stop all workers, also those kept for other tests."""
        for worker in self.workers.values():
            worker.stop()
        self.workers.clear()
        self._kept.clear()

    def end_of_test(self) -> None:
        """Stop the workers that are not kept."""
        self._end([name for name in self.workers if name not in self._kept])

    def end_worker(self, name: str) -> None:
        """Stop a worker that was kept."""
        del self._kept[name]
        self._end([name])

    def _end(self, names: list[str]) -> None:
        """Kill them, and age their heartbeats, so that nothing waits for them."""
        if not names:
            return
        ended = [self.workers.pop(name) for name in names]
        for worker in ended:
            worker.kill()
        gone = self.sql(
            "UPDATE workflows_worker SET heartbeat_at = heartbeat_at - interval '1 day' WHERE pid = ANY(%s)"
            " RETURNING name",
            [worker.pid for worker in ended],
        )
        self.sql(
            "UPDATE models_registry_host SET reported_at = reported_at - interval '1 day'"
            " WHERE name = ANY(%s)",
            [name for (name,) in gone],
        )

    def stop(self) -> None:
        for process in (*self.workers.values(), self.web):
            if process is not None:
                process.kill()

    # -- what tests ask -----------------------------------------------------------------------------
    def sql(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """The rows of a query on the stack's database; `[]` if it returns none."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            cursor = connection.execute(query, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def cancel_executions(self) -> None:
        """Cancel whatever waits or runs, of all users."""
        self.sql(
            "UPDATE workflows_execution SET status = 'cancelled', completed_at = now(), claim_token = NULL,"
            " held = NULL WHERE status IN ('pending', 'running')"
        )

    def person(self, name: str = "person") -> Person:
        """A newly registered user, logged in. Each call creates another."""
        self._people += 1
        return Person(self.url, f"{name}{self._people}")

    def log_sections(self) -> list[tuple[str, str]]:
        """The end of each process's log, for the report of a failed test."""
        processes = [process for process in (self.web, *self.workers.values()) if process is not None]
        return [(f"log of {process.name}", "\n".join(process.tail(60))) for process in processes]


class Person:
    """A user with an account, and an HTTP session with the token."""

    def __init__(self, url: str, name: str) -> None:
        self.url = url
        self.email = f"{name}@example.com"
        self.password = "correct horse battery"
        self.session = requests.Session()
        account = {"email": self.email, "username": name, "password": self.password}
        answer = self.post("/auth/register", account)
        assert answer.status_code == 201, answer.text
        answer = self.post("/auth/login", {"email": self.email, "password": self.password})
        assert answer.status_code == 200, answer.text
        self.session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.session.get(self.url + path, timeout=30, **options)

    def post(self, path: str, json: Any = None, **options: Any) -> requests.Response:
        return self.session.post(self.url + path, json=json, timeout=30, **options)

    def execute(self, workflow: dict[str, Any] | str, **more: Any) -> str:
        """Submit a workflow; its execution id."""
        answer = self.post("/workflows/execute", {"workflow": workflow, **more})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["execution_id"])

    def result(self, execution_id: str, *, seconds: float = 60) -> dict[str, Any]:
        """The execution, once it has ended with any status."""

        def ended() -> dict[str, Any] | None:
            execution: dict[str, Any] = self.get(f"/workflows/{execution_id}").json()
            return execution if execution["status"] in ("completed", "failed", "cancelled") else None

        return wait_for(ended, seconds=seconds, what=f"the end of {execution_id}")


def copy_database(server_url: str, source: str, target: str) -> None:
    """Replace `target` with a copy of `source`, to which nobody may be connected."""
    with psycopg.connect(_with_path(server_url, "postgres"), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {target} WITH (FORCE)")
        connection.execute(f"CREATE DATABASE {target} TEMPLATE {source}")


def _with_path(url: str, path: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{path}"))
