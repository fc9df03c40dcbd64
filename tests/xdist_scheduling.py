"""Assigns tests to processes, if there are several (`script/test`): a pytest plugin.

They are dealt out by files, since the tests of one share what is dear to start, and by whole folders where
the files share it too. What takes longest is dealt first, so that all processes end at about the same time.
"""

from __future__ import annotations

from typing import Any

import pytest

# Folders whose tests have servers of their own, started once.
TOGETHER = ("tests/files", "tests/health")
# The longest first, by the seconds they take (`script/test` tells the slowest tests at its end). A list that
# has grown old costs a little time, and nothing else.
LONGEST = (
    "tests/health",
    "tests/files",
    "tests/workflows/test_worker_death.py",
    "tests/local/test_serve.py",
    "tests/workflows/test_many_workers.py",
    "tests/console/test_browser.py",
    "tests/workflows/test_events.py",
    "tests/workflows/test_event_streams.py",
    "tests/faults/test_faults.py",
    "tests/local/test_demo.py",
    "tests/workflows/test_stream_credentials.py",
    "tests/workflows/test_wait_credentials.py",
    "tests/workflows/test_webhooks.py",
    "tests/workflows/test_fairness.py",
    "tests/deploy/test_processes.py",
    "tests/docs/test_examples.py",
    "tests/api/test_fuzz.py",
    "tests/workflows/test_state_machine.py",
    "tests/workflows/test_order.py",
    "tests/workflows/test_durability.py",
    "tests/doors/test_comfyui_addresses.py",
    "tests/api/test_routes.py",
    "tests/console/test_operators.py",
    "tests/workflows/test_delivery.py",
    "tests/workflows/test_unkind_comfyui.py",
    "tests/workflows/test_slow_readers.py",
    "tests/models_registry/test_without_bridge.py",
    "tests/doors/test_comfyui_ws.py",
    "tests/models_registry/test_download.py",
    "tests/console/test_operators_browser.py",
    "tests/workflows/test_cancel_running.py",
    "tests/workflows/test_prefer_wait.py",
    "tests/workflows/test_inputs.py",
    "tests/workflows/test_tidying.py",
    "tests/workflows/test_failures.py",
    "tests/workflows/test_dependency_faults.py",
    "tests/workflows/test_database_clock.py",
    "tests/api/test_gate.py",
    "tests/api/test_outbound.py",
    "tests/workflows/test_proxied.py",
    "tests/models_registry/test_load.py",
    "tests/local/test_stack.py",
)


def unit(nodeid: str) -> str:
    """What is dealt out as one: the folder or the file of this test."""
    file = nodeid.partition("::")[0]
    folder = file.rpartition("/")[0]
    return folder if folder in TOGETHER else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """In the process that deals."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Dealing(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return unit(nodeid)

    config.option.loadscopereorder = False  # it would go by the number of tests
    return Dealing(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In those that run tests: they are dealt in the order in which they were collected."""
    if hasattr(config, "workerinput"):
        places = {name: place for place, name in enumerate(LONGEST)}
        items.sort(key=lambda item: places.get(unit(item.nodeid), len(LONGEST)))
