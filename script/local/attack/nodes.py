"""Every input of every installed stock node that could take a path, a name or a URL."""

from __future__ import annotations

import random
import re
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from script.local.attack.callers import TERMINAL, Answer, Caller
from script.local.attack.canaries import Canaries
from script.local.attack.graphs import Builder, Graph, Input, inputs_of
from script.local.attack.report import Report
from script.local.attack.victim import Victim

KIND = "paths in inputs of nodes"
DENIED = "denied nodes"
PLAIN = ("INT", "FLOAT", "BOOLEAN")
TELLING = re.compile(r"path|folder|dir|file|prefix|image|video|audio|latent|model|url|name", re.IGNORECASE)
AT_ONCE = 24  # the attacker's executions that wait or run concurrently
END_SECONDS = 90.0


@dataclass(frozen=True)
class Try:
    class_type: str
    name: str
    value: Any
    graph: Graph

    def __str__(self) -> str:
        return f"{self.class_type}.{self.name} = {str(self.value)[:120]!r}"


class NodeAttack:
    """`outside`: a folder with the victim's files beside ComfyUI's own, if known."""

    def __init__(self, attacker: Caller, victim: Victim, report: Report, *, outside: str = "") -> None:
        self.attacker, self.victim, self.report = attacker, victim, report
        self.canaries: Canaries = victim.canaries
        self.outside = outside
        self.info: dict[str, Any] = attacker.must("GET", "/comfyui/object_info")
        listed = attacker.must("GET", "/workflows/nodes")
        self.access = {node["class_type"]: node["access"] for node in listed}
        self.stock = [node["class_type"] for node in listed if not node["module"].startswith("custom_nodes")]
        self._builder = Builder(self.info)
        self._running: deque[tuple[str, Try, float]] = deque()

    # -- tries ---------------------------------------------------------------------------------------
    def values(self) -> list[Any]:
        """Every way to name another user's files; the most promising ones first."""
        ids, name = self.victim.ids, f"{self.canaries.name}.png"
        placed = f"{self.canaries.digest}.png"
        found: list[Any] = [
            "../comfyserve", ids["file_id"], f"{self.canaries.name}_00001_.png [output]", "/etc/passwd",
            f"../comfyserve/{placed}", {"__value__": "/etc/passwd"}, "../output", "../temp", "comfyserve",
            f"../{ids['execution_id']}.1", f"{ids['execution_id']}.1/{name} [output]", ids["output_id"],
            f"comfyserve/{placed}", f"comfyserve/{placed} [input]", f"../output/{name}", f"{name} [input]",
            f"{name} [temp]", f"..\\output\\{name}", {"image": ids["file_id"]}, [ids["file_id"]],
            {"image": f"{name} [output]"}, {"image": "../output/x.png", "mask": ids["file_id"]},
            {"filename": name, "subfolder": "", "type": "output"}, ["/etc/passwd"], "../" * 9 + "etc/passwd",
            {"filename": placed, "subfolder": "../comfyserve", "type": "input"},
            f"comfyserve-input:{ids['file_id']}", "file:///etc/passwd", "http://127.0.0.1:8188/history",
            "http://169.254.169.254/latest/meta-data/", "http://[::ffff:127.0.0.1]/", "http://0/",
            "http://localhost:5432/", "/dev/zero", "/proc/self/environ", "~/.ssh/id_rsa", "..", "/", "\0x",
        ]  # fmt: skip
        if self.outside:
            found[3:3] = [self.outside, f"{self.outside}/{name}", f"{self.outside}/{self.canaries.name}.txt"]
        return found

    def tries(self, *, seed: int, classes: Sequence[str] | None = None) -> Iterator[Try]:
        """In random order, so that a short attack covers some of everything; `classes` limits it."""
        chosen = [name for name in classes or self.stock if self.access.get(name) != "denied"]
        targets = [
            (name, each)
            for name in chosen
            for each in inputs_of(self.info.get(name, {}))
            if self._takes_texts(each)
        ]
        pairs = [(target, value) for target in targets for value in self.values()]
        random.Random(seed).shuffle(pairs)
        pairs.sort(key=lambda pair: 0 if self._is_promising(*pair[0]) else 1)
        for (name, each), value in pairs:
            yield Try(name, each.name, value, self._builder.around(name, {each.name: value}))

    def _takes_texts(self, each: Input) -> bool:
        """Linked inputs are tried too: a literal may replace a link."""
        return each.kind not in PLAIN

    def _is_promising(self, class_type: str, each: Input) -> bool:
        is_free = each.kind in ("STRING", "COMBO", "LOAD_3D", "WEBCAM") or each.options.get("image_upload")
        confined = self.access.get(class_type) == "confined"
        return bool(is_free and (confined or TELLING.search(each.name)))

    # -- running -------------------------------------------------------------------------------------
    def denied(self) -> None:
        """Submit denied nodes, under their names and similar names."""
        for class_type in [name for name in self.stock if self.access[name] == "denied"]:
            graph = self._builder.around(class_type, {})
            for disguise in (class_type, f" {class_type}", f"{class_type} ", class_type.lower()):
                graph["1"]["class_type"] = disguise
                self.report.tried(DENIED)
                answer = self.attacker.post("/workflows/execute", {"workflow": graph})
                if answer.status == 200 and disguise == class_type:
                    self.report.leak(DENIED, f"{class_type} was accepted")
                self._submitted(answer, Try(disguise, "", "", graph))
        self.settle()

    def run(self, *, seconds: float, seed: int, classes: Sequence[str] | None = None) -> None:
        """Run until everything was tried or the time is up; then wait for running executions."""
        end = time.monotonic() + seconds
        for each in self.tries(seed=seed, classes=classes):
            if time.monotonic() > end:
                break
            self.report.tried(KIND)
            self._submitted(self.attacker.post("/workflows/execute", {"workflow": each.graph}), each)
            while len(self._running) >= AT_ONCE:
                self._look_at_first(wait=END_SECONDS)
        self.settle()

    def settle(self) -> None:
        while self._running:
            self._look_at_first(wait=END_SECONDS)

    def _submitted(self, answer: Answer, each: Try) -> None:
        if answer.status == 0 or answer.status >= 500:
            self.report.leak(KIND, f"{each} got {answer.status or 'no response'}")
        self._judge(answer.content, each, "the response")
        accepted = answer.json()
        if answer.status == 200 and isinstance(accepted, dict):
            self._running.append((accepted["execution_id"], each, time.monotonic()))

    def _look_at_first(self, *, wait: float) -> None:
        execution_id, each, _ = self._running.popleft()
        result = self.attacker.end_of(execution_id, seconds=wait)
        if result.get("status") not in TERMINAL:
            self.report.leak(KIND, f"{each} has not ended after {wait:.0f} s")
            self.attacker.post(f"/workflows/{execution_id}/cancel")
            return
        self.report.accepted(KIND)
        self._judge(str(result).encode(), each, "its result")
        for group in (result.get("outputs") or {}).values():
            for output in group if isinstance(group, list) else []:
                if isinstance(output, dict) and output.get("file_id"):
                    self._judge(self.attacker.get(f"/files/{output['file_id']}").content, each, "an output")

    def _judge(self, content: bytes, each: Try, where: str) -> None:
        found = self.canaries.found_in(content)
        if found:
            self.report.leak(KIND, f"{each}: {found} is in {where}")
