"""schemathesis over the whole schema, on a real server. FUZZ_SECONDS says for how long each run lasts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from script.harness.stack import Stack

SECONDS = int(os.environ.get("FUZZ_SECONDS", "10"))  # for each of the two; more finds more
COMMON = [
    "--checks=all",
    # Password rules, tokens that must be ours and moments to come are in no JSON schema.
    "--exclude-checks=positive_data_acceptance",
    "--continue-on-failure",
    "--suppress-health-check=all",
    "--no-color",
    f"--max-time={SECONDS}",
    "--max-examples=1000",
]


@pytest.fixture
def site(stack: Stack) -> Iterator[Stack]:
    """What is submitted here waits for no worker of later tests."""
    yield stack
    stack.cancel_executions()


def fuzz(stack: Stack, *arguments: str) -> None:
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        "run",
        f"{stack.url}/schema",
        *COMMON,
        *arguments,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS + 100)
    print(done.stdout[-8000:])  # with the counts; pytest shows it of a failed run, or with -s
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.timeout(SECONDS + 120)
class TestFuzz:
    def test_as_a_user(self, site: Stack) -> None:
        """Without logout, which would make all later requests a stranger's."""
        person = site.person()
        authorization = person.session.headers["Authorization"]
        fuzz(site, "-H", f"Authorization: {authorization!s}", "--exclude-path=/auth/logout")
        assert person.get("/auth/me").status_code == 200, "it went on as a stranger"

    def test_as_a_stranger(self, site: Stack) -> None:
        fuzz(site)
