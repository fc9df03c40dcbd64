"""Which process runs which tests, where several do (`script/test`): a pytest plugin.

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
    "tests/workflows/test_worker_death.py",
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
