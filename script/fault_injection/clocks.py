"""Wrong clocks for single processes: a small preloaded library (`clock.c`), compiled if there is a cc.

libfaketime could do it, but it also changes sleeps, which makes Python's `time.sleep` fail.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("clock.c")


class Clocks:
    """One clock for each name that was ever set; processes started under that name follow it from then on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._library = folder / "clock.so"
        self.available = self._compile()

    def _compile(self) -> bool:
        compiler = shutil.which("cc")
        if compiler is None:
            return False
        self._folder.mkdir(parents=True, exist_ok=True)
        command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(self._library), str(SOURCE), "-ldl"]
        return subprocess.run(command, capture_output=True).returncode == 0

    def set(self, name: str, seconds: float) -> None:
        """Set the offset from real time, effective immediately for running processes that use this clock."""
        part = self._folder / f".{name}"
        part.write_text(f"{seconds:.0f}\n")
        part.replace(self._folder / name)

    def at_real_time(self, name: str) -> dict[str, str]:
        """`environment` of a process whose clock is right until it is `set`."""
        if self.available:
            self.set(name, 0.0)
        return self.environment(name)

    def environment(self, name: str) -> dict[str, str]:
        if not (self._folder / name).exists():
            return {}
        return {"LD_PRELOAD": str(self._library), "CLOCK_OFFSET_FILE": str(self._folder / name)}
