"""The table of settings is complete, and has no unknown ones."""

from __future__ import annotations

import re

from script.local.paths import ROOT
from tests.deploy import compose

SETTINGS = (ROOT / "comfyserve" / "settings.py").read_text()
TABLE = (ROOT / "docs" / "configuration.md").read_text()


def read_by_settings() -> set[str]:
    return set(re.findall(r"env(?:\.\w+)?\(\s*\"([A-Z][A-Z0-9_]+)\"", SETTINGS))


def named_in_the_table() -> set[str]:
    rows = [line for line in TABLE.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([A-Z][A-Z0-9_]+)`", row.split("|")[1])}


def test_every_setting_is_in_the_table() -> None:
    assert read_by_settings() - named_in_the_table() == set(), "add them to docs/configuration.md"


def test_the_table_has_nothing_that_is_not_read() -> None:
    read = read_by_settings() | set(compose.variables())
    assert named_in_the_table() - read == set(), (
        "docs/configuration.md has more than settings.py and compose.yaml"
    )
