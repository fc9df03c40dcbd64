"""Every row of the tables of guarantees in docs/security.md names an existing test."""

from __future__ import annotations

import re

from script.local.paths import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text()
FILE = re.compile(r"`((?:tests/)?(?:\w+/)*test_\w+\.py)`(?::((?: `\w+`,?)+))?")


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(title: str) -> list[str]:
    """Without the heading of the table and the line below it."""
    return [line for line in section(title).splitlines() if line.startswith("|")][2:]


def sources_of(file: str) -> str:
    """A path from the root, or the name of a file in the folder of the one before."""
    found = [ROOT / file] if "/" in file else list((ROOT / "tests").rglob(file))
    assert found, f"there is no {file}"
    assert all(path.exists() for path in found), f"there is no {file}"
    return "".join(path.read_text() for path in found)


def test_every_defence_names_a_test():
    defended = rows("What is defended, and how")
    assert len(defended) > 15
    assert [row for row in defended if not FILE.search(row)] == []


def test_the_tests_that_it_names_exist():
    named = FILE.findall(PAGE)
    assert len(named) > 20
    for file, names in named:
        text = sources_of(file)
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"(def|class) {name}\b", text), f"{file} has no {name}"


def test_so_do_those_of_users_inside_comfyui():
    text = sources_of("tests/workflows/test_tenants.py")
    for row in rows("Users inside ComfyUI"):
        cited = re.findall(r"`((?:\w+::)?\w+)`", row.rsplit("|", 2)[1])
        assert cited, row
        for names in cited:
            for name in names.split("::"):
                assert re.search(rf"(def|class) {name}\b", text), f"there is no {name}"


def test_every_attack_that_once_succeeded_names_tests_that_exist():
    table = PAGE.split("\n### Attacks that once succeeded\n")[1].split("\n## ")[0]
    found = [line for line in table.splitlines() if line.startswith("|") and not line.startswith("| **")][2:]
    assert len(found) > 25
    text = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for row in found:
        cited = re.findall(r"`((?:\w+::)?\w+|\w+\.py)`", row.rsplit("|", 2)[1])
        assert cited, row
        for name in (name for names in cited for name in names.split("::")):
            is_file = name.endswith(".py") and list((ROOT / "tests").rglob(name))
            assert is_file or re.search(rf"(def|class) {name}\b", text), f"there is no {name}"
