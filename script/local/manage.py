"""Django's `manage.py` on the database of the running script/serve."""

from __future__ import annotations

import os
import sys

from script.local import running
from script.local.paths import ROOT

HELP = """Run manage.py with the addresses of the running script/serve, for example

  script/manage createsuperuser     make a first operator
  script/manage help                all that it can do
"""


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)
        return
    running.borrow_addresses()
    os.execv(sys.executable, [sys.executable, str(ROOT / "manage.py"), *arguments])
