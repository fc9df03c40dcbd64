from __future__ import annotations

import re
from collections import defaultdict

from script.local.paths import ROOT

PAGE = ROOT / "docs" / "reliability.md"


def test_every_test_that_the_page_names_exists():
    sources: dict[str, str] = defaultdict(str)  # some folders have files of the same name
    for path in (ROOT / "tests").rglob("test_*.py"):
        sources[path.name] += path.read_text()
    rows = [
        line.rsplit("|", 2)[1]
        for line in PAGE.read_text().splitlines()
        if "`test_" in line and line[0] == "|"
    ]
    assert len(rows) > 20
    for row in rows:
        for file, names in re.findall(r"`(test_\w+\.py)`(?::((?: `\w+`,?)+))?", row):
            assert file in sources, f"there is no {file}"
            for name in re.findall(r"`(\w+)`", names):
                assert re.search(rf"\b(def|class) {name}\b", sources[file]), f"{file} has no {name}"
