"""What was tried, and what succeeded."""

from __future__ import annotations

import threading
from collections import Counter


class Report:
    """`tries` by kind; `leaks` describe successful attacks. Thread-safe."""

    MAX_LEAKS = 200  # one hole may be found by thousands of tries

    def __init__(self) -> None:
        self.tries: Counter[str] = Counter()
        self.ran: Counter[str] = Counter()  # how many of these the service accepted and ran
        self.leaks: list[str] = []
        self.notes: list[str] = []
        self._lock = threading.Lock()

    def tried(self, kind: str, count: int = 1) -> None:
        with self._lock:
            self.tries[kind] += count

    def accepted(self, kind: str) -> None:
        with self._lock:
            self.ran[kind] += 1

    def leak(self, kind: str, text: str) -> None:
        """Record a successful attack."""
        line = f"{kind}: {text}"
        with self._lock:
            if line in self.leaks or len(self.leaks) >= self.MAX_LEAKS:
                return
            self.leaks.append(line)
        print(f"  ! {line}", flush=True)

    def note(self, text: str) -> None:
        with self._lock:
            self.notes.append(text)

    def lines(self) -> list[str]:
        found = ["", "Tried"]
        for kind, count in sorted(self.tries.items()):
            ran = f", {self.ran[kind]} of them ran" if self.ran[kind] else ""
            found.append(f"  {kind:42} {count:7}{ran}")
        found += [
            f"  {'all':42} {sum(self.tries.values()):7}",
            "",
            "Measured",
            *(f"  {n}" for n in self.notes),
        ]
        found += ["", f"Successful attacks: {len(self.leaks)}", *(f"  ! {leak}" for leak in self.leaks)]
        return found
