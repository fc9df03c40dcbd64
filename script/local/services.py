"""Everything ComfyServe needs on one machine, started and stopped together: for serve and demo."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from script.local import comfyui as local_comfyui
from script.local import comfyui_install, migrations, ports, roles, running
from script.local.comfyui import ComfyUI
from script.local.console import DISK_FULL, UserError, run, step
from script.local.paths import ROOT, data_dir, write_private
from script.local.postgres import Postgres
from script.local.processes import Process
from script.local.supervisor import Program, Supervisor
from script.local.unsupervised import Unsupervised
from script.local.valkey import Valkey

DATABASE = "comfyserve"
_ROOM_BYTES = 20_000_000  # PostgreSQL requests 16 MB at once, and exits without it
ORDER = ("stores", "comfyui", "app", "web")  # stopped in the opposite order
# A GPU worker that is stopped releases or finishes its executions: settings.DRAIN_SECONDS plus a margin.
_WORKER_STOP_SECONDS = int(os.environ.get("DRAIN_SECONDS", "30")) + 10


class Services:
    """Databases (unless the environment names others), ComfyUI (unless COMFYUI_URL responds), web, workers.

    `host` and `port` are where the web process listens. For the demo our own ComfyUI gets the small models,
    and is also started if COMFYUI_URL names one that does not respond; what the demo does not need is not
    started, and nothing is restarted.
    """

    def __init__(self, *, host: str, port: int, for_demo: bool = False) -> None:
        self.host = host
        self.port = port
        self.data = data_dir()
        self.logs = self.data / "logs"
        self._for_demo = for_demo
        self._lock: IO[str] | None = None
        self._postgres: Postgres | None = None
        self._valkey: Valkey | None = None
        self._comfyui: ComfyUI | None = None
        self._collecting: Process | None = None
        self.comfyui_urls: list[str] = []
        self.flower_port = ports.free_port(prefer=int(os.environ.get("FLOWER_PORT", "5555")))
        self.env: dict[str, str] = {}
        self._supervisor: Supervisor | Unsupervised | None = None

    @property
    def url(self) -> str:
        shown = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://{shown}:{self.port}"

    @property
    def flower_url(self) -> str:
        return f"http://127.0.0.1:{self.flower_port}/{roles.FLOWER_PREFIX}/"

    @property
    def small_models(self) -> bool:
        """Whether our own ComfyUI runs the demo."""
        return self._for_demo and self._comfyui is not None

    # -- starting -------------------------------------------------------------------------------------
    def start(self) -> None:
        """Start everything and wait until requests are served. UserError, with everything stopped, if that
        fails.

        Our ComfyUI takes longer: see `wait_for_comfyui`. Until then executions may be submitted, and wait.
        """
        self._lock = running.take()
        try:
            self._choose()
            self._set_environment()
            self._start_collecting_static_files()
            self._prepare()
            self._up()
        except Exception as error:
            full = shutil.disk_usage(self.data).free < _ROOM_BYTES
            self.stop()
            if full and DISK_FULL not in str(error):
                raise UserError(f"{DISK_FULL}\n\n{error}") from error
            raise
        except BaseException:  # Ctrl-C
            self.stop()
            raise

    def _choose(self) -> None:
        """Decide which services we start, and their URLs."""
        if not os.environ.get("DATABASE_URL"):
            self._postgres = Postgres(
                self.data / "postgres", port=ports.free_port(), log=self.logs / "postgres.log"
            )
        if not os.environ.get("REDIS_URL"):
            self._valkey = Valkey(self.data / "valkey", port=ports.free_port(), log=self.logs / "valkey.log")
        given = [url.strip().rstrip("/") for url in os.environ.get("COMFYUI_URL", "").split(",")]
        given = [url for url in given if url]
        if given and not any(local_comfyui.answers(url) for url in given):
            print(f"  ! No ComfyUI responds at {', '.join(given)} yet", flush=True)
            given = [] if self._for_demo else given
        if given:
            self.comfyui_urls = given
            return
        if local_comfyui.answers("http://127.0.0.1:8188", seconds=0.5):
            self.comfyui_urls = ["http://127.0.0.1:8188"]
            return
        self._install_comfyui()

    def _install_comfyui(self) -> None:
        install = comfyui_install.default_folder()
        comfyui_install.install(install)
        models = [local_comfyui.tiny_models(install)] if self._for_demo else []
        self._comfyui = ComfyUI(
            self.data / "comfyui", port=ports.free_port(), log=self.logs / "comfyui.log", models=models
        )
        self._comfyui.prepare()
        self.comfyui_urls = [self._comfyui.url]

    def _set_environment(self) -> None:
        if self.host in ("127.0.0.1", "localhost", "::1"):
            # A web page elsewhere must not reach the service through its own host name (DNS rebinding).
            os.environ.setdefault("ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]")
        self.env = os.environ | {
            "DATA_DIR": str(self.data),
            "SECRET_KEY": os.environ.get("SECRET_KEY") or self._kept_secret("secret-key"),
            "DATABASE_URL": self._postgres.url(DATABASE) if self._postgres else os.environ["DATABASE_URL"],
            "REDIS_URL": self._valkey.url() if self._valkey else os.environ["REDIS_URL"],
            "COMFYUI_URL": ",".join(self.comfyui_urls),
            "PORT": str(self.port),
            "FLOWER_BASIC_AUTH": f"operator:{self.flower_password}",
            "FLOWER_URL": os.environ.get("FLOWER_URL") or self.flower_url,
            "DJANGO_SETTINGS_MODULE": "comfyserve.settings",
        }
        if not self._for_demo:  # stopped before another could use it
            running.publish({key: self.env[key] for key in running.PUBLISHED})

    def _prepare(self) -> None:
        if self._postgres:
            with step("Prepare PostgreSQL"):
                self._postgres.prepare()
        if self._valkey:
            self._valkey.prepare()

    def _up(self) -> None:
        with step("Start PostgreSQL and Valkey"):
            self._supervisor = self._runner()
            self._supervisor.start()
            if self._comfyui:  # the slowest; the rest starts in parallel
                self._supervisor.start_group("comfyui")
            if self._postgres or self._valkey:
                self._supervisor.start_group("stores")
            if self._postgres:
                self._await(self._postgres.ready, 60, "PostgreSQL")
                self._postgres.create_database(DATABASE)
            if self._valkey:
                self._await(self._valkey.ready, 20, "Valkey")
        self._migrate()
        self._await_static_files()
        with step("Start the web server and the workers"):
            # First what people wait for: all of them at once would share the processor.
            self._supervisor.start_group("web")
            self._await(lambda: ports.answers(self.host, self.port), 60, "The web server")
            self._supervisor.start_group("app")

    def wait_for_comfyui(self) -> None:
        """Until it responds, if it is ours to start."""
        if self._comfyui:
            with step("Start ComfyUI"):
                self._await(self._comfyui.ready, 300, "ComfyUI")

    def _runner(self) -> Supervisor | Unsupervised:
        programs = self._programs()
        if self._for_demo:
            return Unsupervised(
                logs=self.logs,
                env=self.env,
                programs=programs,
                stores=ORDER[:1],
                workers=[program.name for program in self._workers()],
            )
        return Supervisor(self.data / "run", logs=self.logs, env=self.env, programs=programs, order=ORDER)

    def _migrate(self) -> None:
        """For a database that we do not manage, Django is asked every time."""
        stamp = self.data / "run" / "migrated"
        if self._postgres and not migrations.pending(url=self._postgres.url(DATABASE), stamp=stamp):
            return
        with step("Bring the database up to date"):
            self._manage("migrate", "--verbosity=0")
        if self._postgres:
            migrations.note(url=self._postgres.url(DATABASE), stamp=stamp)

    def _start_collecting_static_files(self) -> None:
        """Only when our packages changed: it compresses some 10 MB, while the database is created."""
        if self._static_stamp.exists() and self._static_stamp.read_text() == _packages():
            return
        command = [sys.executable, str(ROOT / "manage.py"), "collectstatic", "--noinput", "--verbosity=0"]
        log = self.logs / "collectstatic.log"
        self._collecting = Process("collectstatic", command, log=log, env=self.env, cwd=ROOT).start()

    def _await_static_files(self) -> None:
        """The web process looks through them when it starts."""
        if self._collecting is None:
            return
        with step("Collect the static files of admin and docs"):
            collecting = self._collecting
            collecting.wait_until(lambda: collecting.code == 0, seconds=120, what="end")
            self._collecting = None  # nothing to stop: another process may get its number
            self._static_stamp.parent.mkdir(exist_ok=True)  # STATIC_ROOT may be elsewhere
            self._static_stamp.write_text(_packages())

    @property
    def _static_stamp(self) -> Path:
        return self.data / "static" / ".packages"

    def _manage(self, *arguments: str) -> None:
        run([sys.executable, ROOT / "manage.py", *arguments], log=self.logs / "manage.log", env=self.env)

    def _kept_secret(self, name: str) -> str:
        """Created once and stored in DATA_DIR, readable only by us."""
        path = self.data / name
        if not path.exists():
            write_private(path, secrets.token_urlsafe(48))
        return path.read_text().strip()

    @property
    def flower_password(self) -> str:
        return self._kept_secret("flower-password")

    def _await(self, ready: Callable[[], bool], seconds: float, name: str) -> None:
        assert self._supervisor is not None
        end = time.monotonic() + seconds
        looked = time.monotonic()
        while not ready():
            if time.monotonic() > looked + 0.5:
                self._supervisor.check()
                looked = time.monotonic()
            if time.monotonic() > end:
                raise UserError(f"{name} was not ready after {seconds:g} s. The logs are in {self.logs}")
            time.sleep(0.03)

    # -- programs -------------------------------------------------------------------------------------
    def _programs(self) -> list[Program]:
        programs = self._stores()
        if self._comfyui:
            env = local_comfyui.environment()
            programs.append(
                Program(
                    name="comfyui",
                    group="comfyui",
                    command=self._comfyui.command,
                    env={key: value for key, value in env.items() if os.environ.get(key) != value},
                    only_env=sorted(env),
                )
            )
        return [*programs, *self._workers(), *self._app()]

    def _stores(self) -> list[Program]:
        programs = []
        if self._postgres:
            programs.append(
                Program(
                    name="postgres",
                    group="stores",
                    command=self._postgres.command,
                    user=self._postgres.user,
                    only_env=["PATH"],
                    stop_signal="INT",
                    stop_seconds=20,
                )
            )
        if self._valkey:
            programs.append(
                Program(name="valkey", group="stores", command=self._valkey.command, only_env=["PATH"])
            )
        return programs

    def _workers(self) -> list[Program]:
        """A GPU worker for each ComfyUI, and one for all other queues."""
        command = ROOT / "script" / "worker"
        programs = []
        for number, url in enumerate(self.comfyui_urls, 1):
            env = {"COMFYUI_URL": url}
            if self._comfyui and not os.environ.get("COMFYUI_NAME"):
                # Its port differs each time; its worker stays the same.
                from comfyserve.backends import own_comfyui_name  # late: its package imports Celery

                env["COMFYUI_NAME"] = own_comfyui_name(
                    data_dir=str(self.data), shared_database=self._postgres is None
                )
            elif len(self.comfyui_urls) > 1 and os.environ.get("COMFYUI_NAME"):
                env["COMFYUI_NAME"] = f"{os.environ['COMFYUI_NAME']}-{number}"
            programs.append(
                Program(
                    name=f"worker-gpu-{number}",
                    group="app",
                    command=[command, "gpu"],
                    env=env,
                    stop_seconds=_WORKER_STOP_SECONDS,
                )
            )
        if self._for_demo:  # the other queues are not needed
            return programs
        rest: list[str | Path] = [command, "default,models,webhooks"]
        return [*programs, Program(name="worker-rest", group="app", command=rest, stop_seconds=15)]

    def _app(self) -> list[Program]:
        web = roles.web(host=self.host, port=self.port)
        beat = roles.beat(schedule=self.data / "run" / "beat")
        flower = roles.flower(host="127.0.0.1", port=self.flower_port, state=self.data / "flower" / "state")
        programs = [Program(name="web", group="web", command=web, stop_seconds=15)]
        if self._for_demo:  # it has finished before these two would have something to do
            return programs
        return [
            *programs,
            Program(name="beat", group="app", command=beat),
            Program(name="flower", group="app", command=flower),
        ]

    # -- while it runs, and the end -------------------------------------------------------------------
    def check(self) -> None:
        """UserError if supervision gave up on a program."""
        assert self._supervisor is not None
        self._supervisor.check()

    def stop(self) -> None:
        """Stop everything that was started. Safe to call at any time."""
        if self._collecting is not None:
            self._collecting.kill()
        if self._supervisor is not None:
            self._supervisor.stop()
            self._supervisor = None
        if self._lock is not None:
            (running.folder() / "environment.json").unlink(missing_ok=True)
            self._lock.close()
            self._lock = None


def _packages() -> str:
    return (ROOT / "requirements.txt").read_text()
