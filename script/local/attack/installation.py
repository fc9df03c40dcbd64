"""The installation under attack: a running one, or our own started by `script/serve`."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from script.local import ports
from script.local.attack.canaries import Canaries
from script.local.attack.report import Report
from script.local.paths import ROOT
from script.local.processes import Process

MARKED = re.compile(r"[0-9a-f-]{36}\.\d+")  # the folder of an attempt
KINDS = ("input", "output", "temp")
RECEIVER = "127.0.0.77"
PLACED = "comfyserve"  # folder of inputs, below `input`


@dataclass
class Installation:
    """`comfyui`: the folder with ComfyUI's input and output, if it is on this machine."""

    url: str
    comfyui: Path | None = None
    process: Process | None = None
    pids: Callable[[], int] | None = None  # of the web process, if another process manager runs it
    receiver: str = ""  # an address of this machine that it may connect to, for servers of the attacker's

    def web_pid(self) -> int | None:
        """The web process's id, if it runs on this machine."""
        if self.pids is not None:
            return self.pids()
        if self.process is None or not self.process.alive:
            return None
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if any("comfyserve.asgi" in part for part in child.cmdline()):
                    return child.pid
            except psutil.Error:
                continue
        return None

    # -- files in ComfyUI's folders ------------------------------------------------------------------
    def plant(self, canaries: Canaries) -> None:
        """Plant files in the folders shared by all users, and outside of them."""
        if self.comfyui is None:
            return
        for folder in (*(self.comfyui / kind for kind in KINDS), self.outside):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{canaries.name}.png").write_bytes(canaries.picture())
            (folder / f"{canaries.name}.txt").write_text(canaries.word)
        self._before = self._files()

    @property
    def outside(self) -> Path:
        assert self.comfyui is not None
        return self.comfyui.parent / f"{self.comfyui.name}-outside"

    def look_for_strays(self, report: Report) -> None:
        """Find files written where no execution may write."""
        if self.comfyui is None:
            return
        report.tried("files written by nodes")
        now = self._files()
        for path in sorted(now.keys() - self._before.keys()):
            report.leak("files written by nodes", f"{path} is new")
        for path, content in self._before.items():
            if now.get(path) != content:
                report.leak("files written by nodes", f"{path} was changed or deleted")

    def _files(self) -> dict[str, tuple[int, int]]:
        """All files except those that ComfyUI writes for itself and for each attempt: (size, time)."""
        assert self.comfyui is not None
        found = {}
        for top in (self.comfyui, self.outside):
            # `rglob` raises an error for a folder that is deleted at that moment.
            for folder, _, names in os.walk(top):
                for path in (Path(folder) / name for name in names):
                    parts = path.relative_to(top).parts
                    own = parts[0] == "user" or "__pycache__" in parts or PLACED in parts[:2]
                    if not own and not any(map(MARKED.fullmatch, parts)):
                        with contextlib.suppress(FileNotFoundError):
                            stat = path.stat()
                            found[str(path)] = (stat.st_size, stat.st_mtime_ns)
        return found


@contextmanager
def our_own(folder: Path) -> Iterator[Installation]:
    """All of ComfyServe by `script/serve`, with its own data and ports, and without rate limits, which would
    block many tries."""
    port = ports.free_port()
    env = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
    env |= {
        "DATA_DIR": str(folder / "data"), "PORT": str(port), "RATE_LIMITS": "off", "COMFYUI_URL": "",
        "FLOWER_PORT": str(ports.free_port()), "ACCESS_TOKEN_MINUTES": "600",
        "OUTBOUND_ALLOW": RECEIVER, "WEBHOOK_HTTPS_ONLY": "false",
    }  # fmt: skip
    log = folder / "serve.log"
    process = Process("script/serve", [ROOT / "script" / "serve"], log=log, env=env, cwd=ROOT).start()
    try:
        process.wait_until(lambda: "ComfyServe runs." in log.read_text(), seconds=600)
        yield Installation(
            f"http://127.0.0.1:{port}", folder / "data" / "comfyui", process, receiver=RECEIVER
        )
    finally:
        process.stop(seconds=60)
