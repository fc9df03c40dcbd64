"""Makes collecting the tests cheap, which each process of a run (`-n`) does for itself: a pytest plugin.

The rules for what `script/check` leaves out are here too: it neither runs nor imports those.
"""

from __future__ import annotations

import gc
import importlib
from collections.abc import Generator
from pathlib import Path

import pytest

from script.local.paths import ROOT

TESTS = Path(__file__).parent
# Fixtures that start a ComfyUI, or a whole installation: `own` has database, Redis and S3 servers to stop.
LARGE_FIXTURES = {"comfyui", "comfyui_pair", "gpu_worker", "deployment", "own", "_first_comfyui"}
# Folders whose tests start a whole installation or build one, and files whose tests all need a ComfyUI and
# import clients that take a second to load.
NEED_COMFYUI = (
    "local",
    "deploy",
    "faults",
    "flower",
    "doors/test_mcp.py",
    "doors/test_openai.py",
    "doors/test_openai_videos.py",
)

gc.disable()  # until all tests are collected: importing makes little garbage, and many objects to look at


def _needs_comfyui(path: Path) -> bool:
    return any(path.is_relative_to(TESTS / name) for name in NEED_COMFYUI)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if config.option.markexpr == "not comfyui" and _needs_comfyui(collection_path) else None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Import a share of the test modules before collecting all of them.

    pytest rewrites the asserts of a module where no process has cached it yet, which takes as long as all
    the rest of collecting. So each process does that for other modules, and finds those of the others cached.
    """
    config = session.config
    worker = getattr(config, "workerinput", None)
    if worker is not None and config.args_source is pytest.Config.ArgsSource.TESTPATHS:
        files = [path for path in sorted(TESTS.rglob("test_*.py")) if not pytest_ignore_collect(path, config)]
        for path in files[int(worker["workerid"].removeprefix("gw")) :: worker["workercount"]]:
            try:
                importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
            except (Exception, pytest.skip.Exception):  # noqa: BLE001  (collecting it says what is wrong)
                pass
    return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `script/check` leaves out."""
    for item in items:
        if _needs_comfyui(item.path) or LARGE_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.comfyui)


def pytest_collection_finish() -> None:
    """Leave what the tests' modules consist of out of every garbage collection: it stays to the end."""
    gc.collect()
    gc.freeze()
    gc.enable()
