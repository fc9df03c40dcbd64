"""The services that tests run against: a pytest plugin, loaded by `-p tests.services` (see pyproject.toml).

PostgreSQL and Valkey start once a run and stop with it, however it ends. Their addresses are put into the
environment when this module is imported, since pytest-django reads the settings very early; they start
while pytest collects. `TEST_DATABASE_URL` and `TEST_REDIS_URL` name others to use instead. ComfyUI and the
processes of ComfyServe itself are started by the fixtures below, for the tests that ask for them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections import defaultdict
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from script.harness.stack import Stack
from script.harness.waiting import wait_for
from script.local import comfyui as local_comfyui
from script.local import comfyui_install, ports
from script.local.postgres import Postgres
from script.local.s3 import S3
from script.local.valkey import Valkey
from tests import migrated_postgres

pytest_plugins = ["tests.browser", "tests.collection", "tests.xdist_scheduling"]
NODES = Path(__file__).parent / "comfyui_nodes"
# ComfyUI ships SaveImageWebsocket as a custom node; one of its script examples needs it.
WEBSOCKET_NODE = comfyui_install.default_folder() / "ComfyUI" / "custom_nodes" / "websocket_image_save.py"

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # the processes we start would compile everything each time
_folder = Path(tempfile.mkdtemp(prefix="comfyserve-tests-"))
_logs = _folder / "logs"


class Services:
    """PostgreSQL and Valkey of this run, or the addresses of those that were named."""

    def __init__(self) -> None:
        self.postgres: Postgres | None = None
        self.valkey: Valkey | None = None
        self.migrated: migrated_postgres.Copy | None = None
        named = os.environ.get("TEST_DATABASE_URL")
        if not named:
            self.migrated = migrated_postgres.inherited(_folder / "postgres")
            self.postgres = Postgres(
                _folder / "postgres", port=ports.free_port(), log=_logs / "postgres.log", durable=False
            )
        self.database_url = named or self._postgres_url("comfyserve")
        named = os.environ.get("TEST_REDIS_URL")
        if not named:
            self.valkey = Valkey(_folder / "valkey", port=ports.free_port(), log=_logs / "valkey.log")
        self.redis_url = named or self._valkey_url()
        self._prepared = threading.Thread(target=self._prepare, daemon=True)
        self._failure: Exception | None = None

    def _postgres_url(self, name: str) -> str:
        assert self.postgres is not None
        return self.postgres.url(name)

    def _valkey_url(self) -> str:
        assert self.valkey is not None
        return self.valkey.url()

    def _prepare(self) -> None:
        try:
            if self.migrated:
                self.migrated.make()
            if self.postgres:
                self.postgres.prepare()
        except Exception as error:  # noqa: BLE001  (raised by `wait`, in the main thread)
            self._failure = error

    def begin(self) -> None:
        """Begin to start them: PostgreSQL makes its data folder beside pytest's collection."""
        self._prepared.start()
        if self.valkey:
            self.valkey.prepare()
            self.valkey.start()

    def begin_template(self) -> None:
        """Begin to make what the processes of this run will copy."""
        if self.postgres:
            migrated_postgres.Template(self.postgres).begin()

    def wait(self) -> None:
        self._prepared.join()
        if self._failure:
            raise self._failure
        if self.postgres:
            self.postgres.start()
            self.postgres.wait()
        if self.valkey:
            self.valkey.wait()

    def stop(self) -> None:
        for service in (self.valkey, self.postgres):
            if service:
                service.stop()


class TestComfyUI(local_comfyui.ComfyUI):
    """A real ComfyUI on the CPU with tiny models and the nodes of `comfyui_nodes`."""

    __test__ = False

    def __init__(self, name: str, *, bridge: bool = True) -> None:
        super().__init__(
            _folder / name,
            port=ports.free_port(),
            log=_logs / f"{name}.log",
            nodes=[*sorted(NODES.glob("*.py")), WEBSOCKET_NODE],
            bridge=bridge,
        )
        self._ready_once = False

    def begin(self) -> None:
        """Install what is missing, and start without waiting. Does nothing when it runs."""
        if self.process.alive:
            return
        if not self._ready_once:
            comfyui_install.install(self.install)
            self._models = [local_comfyui.tiny_models(self.install)]
            self.prepare()
        self.process.start()

    def start(self) -> None:
        """Start it, unless it runs, and wait until it answers."""
        self.begin()
        self.wait()
        self._ready_once = True

    def open_gate(self, name: str) -> None:
        """End runs of `graphs.gate(name)`, now and later."""
        (self.folder / "user" / name).touch()

    def kill(self) -> None:
        """SIGKILL: what it had in its queue and history is lost."""
        self.process.kill()

    def restart(self) -> None:
        self.kill()
        self.start()


services = Services()
_comfyui = [TestComfyUI("comfyui"), TestComfyUI("comfyui-2")]

os.environ.update(
    DATABASE_URL=services.database_url,
    REDIS_URL=services.redis_url,
    DATA_DIR=str(_folder / "data"),
    SECRET_KEY="a key for tests only, long enough for HMAC with SHA-256",
    ALLOWED_HOSTS="*",
    LOG_FORMAT="line",
    # Whether limits hold is tested where they are the subject.
    RATE_LIMITS="off",
    COMFYUI_URL=_comfyui[0].url,
)
for _name in ("DEBUG", "COMFYUI_NAME", "COMFYUI_HEADERS", "STORAGE_URL", "PUBLIC_URL", "OUTBOUND_ALLOW"):
    os.environ.pop(_name, None)


# -- starting and stopping --------------------------------------------------------------------------
@pytest.hookimpl(tryfirst=True)  # before xdist starts its processes
def pytest_sessionstart(session: pytest.Session) -> None:
    if _runs_tests(session.config):
        services.begin()
    elif not session.config.option.collectonly:
        services.begin_template()


def _runs_tests(config: pytest.Config) -> bool:
    """False in the process that only hands tests out to others (`-n`): each of those has its own services."""
    return not config.option.collectonly and not _hands_out_tests(config)


def _hands_out_tests(config: pytest.Config) -> bool:
    return bool(getattr(config.option, "numprocesses", None)) and not hasattr(config, "workerinput")


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    if not _runs_tests(session.config) or not session.items:
        return
    services.wait()
    wanted = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    # Six seconds of CPU each: begun now, they pass while the first tests run.
    if wanted & {"comfyui", "comfyui_pair", "gpu_worker", "deployment"}:
        _comfyui[0].begin()
    # Where others run tests too, all four at once would slow everybody's first minute; it may not be needed.
    if "comfyui_pair" in wanted and not hasattr(session.config, "workerinput"):
        _comfyui[1].begin()


def pytest_unconfigure() -> None:
    for comfyui in _comfyui:
        comfyui.process.kill()
    services.stop()
    shutil.rmtree(_folder, ignore_errors=True)


# -- fixtures ---------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def _first_comfyui() -> TestComfyUI:
    _comfyui[0].start()
    return _comfyui[0]


@pytest.fixture
def comfyui(_first_comfyui: TestComfyUI) -> TestComfyUI:
    """A running ComfyUI, shared by all tests: `url`, `kill()`, `start()`, `restart()`.

    One that a test has killed is started again for the next.
    """
    _first_comfyui.start()
    return _first_comfyui


@pytest.fixture
def comfyui_pair(comfyui: TestComfyUI) -> list[TestComfyUI]:
    """Two of them."""
    _comfyui[1].start()
    return _comfyui


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3]:
    """A real S3 server (SeaweedFS), with no bucket yet."""
    server = S3(_folder / "s3", log=_logs / "s3.log")
    server.start()
    try:
        server.wait()
        yield server
    finally:
        server.process.kill()


@pytest.fixture(scope="session")
def _stack(django_db_setup: str | None) -> Iterator[Stack]:
    stack = Stack(
        folder=_folder / "stack", logs=_logs, database_url=services.database_url, redis_url=services.redis_url
    )
    try:
        stack.start(template=django_db_setup)
        yield stack
    finally:
        stack.stop()


@pytest.fixture
def stack(_stack: Stack) -> Iterator[Stack]:
    """A real web process on a database of its own, and workers at will: see `script/harness/stack.py`.

    What a test sees there is committed; nothing is rolled back. Workers end with the test.
    """
    _stack.start_web()
    yield _stack
    _stack.end_of_test()


@pytest.fixture
def gpu_worker(stack: Stack, comfyui: TestComfyUI) -> Stack:
    """The stack with a GPU worker for `comfyui` and one for the other queues, both kept between tests."""
    stack.start_worker("gpu-kept", comfyui_url=comfyui.url, keep=True)
    stack.start_worker("rest-kept", queues="default,models,webhooks", keep=True)
    # A worker is ready before it has read ComfyUI's node definitions.
    wait_for(lambda: _reported_nodes(stack, comfyui.url), seconds=60, what="the nodes of the worker")
    return stack


def _reported_nodes(stack: Stack, comfyui_url: str) -> bool:
    return stack.sql(
        "SELECT EXISTS (SELECT FROM workflows_worker WHERE url = %s AND object_info_id IS NOT NULL)",
        comfyui_url,
    )[0][0]


# -- reports ----------------------------------------------------------------------------------------
_seconds: dict[str, float] = defaultdict(float)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        used = getattr(item, "funcargs", {})
        if "stack" in used:
            report.sections.extend(used["stack"].log_sections())
        if "comfyui" in used:
            report.sections.append(("ComfyUI's log", "\n".join(used["comfyui"].process.tail())))
    # What hostile tests made us log must pass through the pipe to the process that collects reports.
    report.sections = [(title, text.encode(errors="replace").decode()) for title, text in report.sections]
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    folder = report.nodeid.split("::")[0].rpartition("/")[0] or "."
    _seconds[folder] += report.duration


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _seconds:
        return
    terminalreporter.section("time by folder")
    for folder, seconds in sorted(_seconds.items(), key=lambda pair: -pair[1]):
        terminalreporter.write_line(f"{seconds:8.1f} s  {folder}")
