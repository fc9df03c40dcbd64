"""Small things that become large: each must end as its owner's failure, and delay nobody else.

A GPU runs one workflow at a time, so another user's execution waits for the bomb as long as the bomb may run:
its delay is what it waits beyond that.
"""

from __future__ import annotations

import base64
import io
import json
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from script.local.attack.callers import TERMINAL, Answer, Caller
from script.local.attack.honest import Honest
from script.local.attack.report import Report
from script.local.attack.victim import Victim

KIND = "bombs"
TIMEOUT_MINUTES = 1  # of each bomb
# The longest delay of another user's execution: ComfyUI stops a workflow between two nodes, and is restarted
# if it has not after HANG_SECONDS (30).
DELAY_SECONDS = 60.0
END_SECONDS = 60.0 * TIMEOUT_MINUTES + DELAY_SECONDS  # of a bomb that runs
REFUSED = ("refused",)
RAN = ("completed", "failed")
ANY = (*RAN, *REFUSED)
HARMLESS = {400, 401, 403, 404, 405, 408, 409, 411, 413, 414, 415, 422, 429, 431, 503, 507}


@dataclass(frozen=True)
class Bomb:
    """`send` returns what it was answered; `workflow` is submitted, `count` times. `ends`: how it may end."""

    name: str
    workflow: Callable[[], Any] | None = None
    send: Callable[[], list[Answer]] | None = None
    ends: tuple[str, ...] = RAN
    count: int = 1
    error: str = ""  # must be in the message of a failure


class BombAttack:
    def __init__(self, attacker: Caller, victim: Victim, honest: Honest, report: Report) -> None:
        self.attacker, self.victim, self.honest, self.report = attacker, victim, honest, report

    def run(self, *, seconds: float, only: frozenset[str] | None = None) -> None:
        """One after the other, until the time is up; `only` are the names of some."""
        end = time.monotonic() + seconds
        for bomb in self.all():
            if (only is None or bomb.name in only) and time.monotonic() < end:
                with self.honest.beside(f"bomb: {bomb.name}"):
                    self._throw(bomb)

    def all(self) -> list[Bomb]:
        return [
            Bomb("icon with a large picture", send=lambda: self._uploaded(_icon(), "a.ico"), ends=ANY),
            Bomb("picture of 60,000 by 60,000", send=lambda: self._uploaded(_huge_png(), "a.png"), ends=ANY),
            Bomb("huge picture as an input", workflow=lambda: _loading(_huge_png(side=6_000))),
            Bomb("text of 64 MiB", workflow=lambda: _doubling(10, size=65_000)),
            Bomb("many outputs", workflow=lambda: _many_outputs()),
            Bomb("regular expression", workflow=_regex, ends=REFUSED),
            Bomb("deep graph", workflow=lambda: _chain(800, "ImageInvert", {})),
            Bomb("deeper graph", workflow=lambda: _chain(1_900, "ImageInvert", {}), ends=ANY),
            Bomb("graph too large", workflow=lambda: _chain(50_000, "ImageInvert", {}), ends=REFUSED),
            Bomb("circle", workflow=_circle, ends=REFUSED),
            Bomb("huge metadata", send=self._huge_metadata, ends=REFUSED),
            Bomb("deep JSON", send=lambda: self._raw(_deep_json()), ends=REFUSED),
            Bomb("wide JSON", send=lambda: self._raw(_wide_json()), ends=REFUSED),
            Bomb("wide metadata", send=self._wide_metadata, ends=REFUSED),
            Bomb("endless number", send=lambda: self._raw(_endless_number()), ends=REFUSED),
            Bomb("archive as a file", send=lambda: self._uploaded(_archive(), "a.zip"), ends=ANY),
            Bomb("compressed body", send=self._compressed, ends=REFUSED),
            Bomb("large batch", send=self._large_batch, ends=REFUSED),
            Bomb("endless run", workflow=_endless, ends=("failed",), error="Timed out"),
            Bomb("endless runs", workflow=_endless, ends=("failed",), error="Timed out", count=3),
            Bomb("many waiting", send=self._many_waiting, ends=ANY),
        ]

    # -- running -------------------------------------------------------------------------------------
    def _throw(self, bomb: Bomb) -> None:
        self.report.tried(KIND)
        began = time.monotonic()
        answers = self._submit(bomb) if bomb.workflow else bomb.send() if bomb.send else []
        ids = [str(each.json()["execution_id"]) for each in answers if bomb.workflow and each.status == 200]
        status, seconds = self.victim.wait_for_own(seconds=END_SECONDS + DELAY_SECONDS)
        ended, ran = self._end_of(bomb, ids) if ids else (self._judge(bomb, answers), 0.0)
        delay = max(0.0, seconds - min(ran, 60.0 * TIMEOUT_MINUTES))
        if status != "completed" or delay > DELAY_SECONDS:
            told = f"another user's execution is {status}, {delay:.0f} s late"
            self.report.leak(KIND, f"{bomb.name}: {told}")
        told = f"{ended}, {time.monotonic() - began:.1f} s; another's run {seconds:.1f} s, {delay:.1f} s late"
        self.report.note(f"{f'bomb: {bomb.name}':42} {told}")

    def _submit(self, bomb: Bomb) -> list[Answer]:
        assert bomb.workflow is not None
        body = {"workflow": bomb.workflow(), "timeout_minutes": TIMEOUT_MINUTES}
        return [self.attacker.post("/workflows/execute", body) for _ in range(bomb.count)]

    def _judge(self, bomb: Bomb, answers: list[Answer]) -> str:
        """What was answered, in words."""
        for answer in answers:
            refused = answer.status in HARMLESS
            if not refused and answer.status // 100 != 2:
                self.report.leak(KIND, f"{bomb.name} got {answer.status}")
            elif not refused and bomb.ends == REFUSED:
                self.report.leak(KIND, f"{bomb.name} was accepted: {answer.content[:100]!r}")
            elif refused and not _says_why(answer):
                self.report.leak(KIND, f"{bomb.name} was refused without a message: {answer.content[:100]!r}")
        return f"answered with {', '.join(str(status) for status in sorted({a.status for a in answers}))}"

    def _end_of(self, bomb: Bomb, ids: list[str]) -> tuple[str, float]:
        """(how it ended, seconds for which the longest ran)."""
        result = self.attacker.end_of(self._first_to_run(ids), seconds=END_SECONDS)
        for execution_id in ids[1:]:
            self.attacker.post(f"/workflows/{execution_id}/cancel")
        self.report.accepted(KIND)
        status, error = str(result.get("status")), str(result.get("error") or "")
        if status not in TERMINAL:
            self.report.leak(KIND, f"{bomb.name} is {status} after {END_SECONDS:.0f} s")
        elif status not in bomb.ends or bomb.error not in error or (status == "failed" and not error):
            self.report.leak(KIND, f"{bomb.name} is {status}: {error[:100]!r}")
        if len(json.dumps(result)) > 2_000_000:
            self.report.leak(KIND, f"{bomb.name}: its result has {len(json.dumps(result))} bytes")
        ran = float(result.get("duration_seconds") or 0.0)
        return f"{status} {error[:80]!r}" if error else status, ran

    def _first_to_run(self, ids: list[str]) -> str:
        """Submitted within moments, they need not run in their order."""
        started = {id_: self.attacker.get(f"/workflows/{id_}").json().get("started_at") for id_ in ids}
        return min((id_ for id_ in ids if started[id_]), key=lambda id_: str(started[id_]), default=ids[0])

    def _uploaded(self, content: bytes, name: str) -> list[Answer]:
        answers = [self.attacker.ask("POST", "/files/upload", files={"file": (name, content)})]
        told = answers[0].json()
        if answers[0].status < 300 and isinstance(told, dict) and "file_id" in told:
            answers.append(self.attacker.get(f"/files/{told['file_id']}/thumbnail"))
            loading = {"1": {"class_type": "LoadImage", "inputs": {"image": told["file_id"]}}}
            loading["2"] = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
            body = {"workflow": loading, "timeout_minutes": TIMEOUT_MINUTES}
            answers.append(self.attacker.post("/workflows/execute", body))
            if answers[-1].status == 200:
                self.attacker.end_of(answers[-1].json()["execution_id"], seconds=END_SECONDS)
        return answers

    def _raw(self, body: bytes) -> list[Answer]:
        headers = {"Content-Type": "application/json"}
        paths = (
            "/workflows/execute", "/workflows/validate", "/workflows/batch", "/auth/login", "/comfyui/prompt",
            "/api/v2/jobs", "/v1/images/generations", "/mcp", "/apps/",
        )  # fmt: skip
        return [self.attacker.ask("POST", path, data=body, headers=headers) for path in paths]

    def _huge_metadata(self) -> list[Answer]:
        body = {"workflow": self.victim.colour(), "metadata": {"x": "y" * 9_000_000}}
        answers = [self.attacker.post("/workflows/execute", body) for _ in range(3)]
        if self.attacker.get("/workflows/?limit=100").status != 200:
            self.report.leak(KIND, "after huge metadata the executions are not listed")
        return answers

    def _wide_metadata(self) -> list[Answer]:
        """Many small values, by each route that keeps some."""
        many = {str(number): "y" for number in range(60_000)}
        workflow = self.victim.colour()
        jobs = {"workflow": workflow, "metadata": many}
        return [
            self.attacker.post("/workflows/execute", {"workflow": workflow, "metadata": many}),
            self.attacker.post("/workflows/batch", {"workflow": workflow, "inputs": [{}], "metadata": many}),
            self.attacker.post("/api/v2/jobs", jobs),
        ]

    def _compressed(self) -> list[Answer]:
        """A megabyte that decompresses to a gigabyte."""
        body = zlib.compress(b"[" + b"[]," * 30_000_000 + b"1]", 9)
        headers = {"Content-Type": "application/json", "Content-Encoding": "deflate"}
        return [self.attacker.ask("POST", "/workflows/execute", data=body, headers=headers)]

    def _large_batch(self) -> list[Answer]:
        grid = {"1.color": list(range(1000)), "1.width": list(range(1000))}
        body = {"workflow": self.victim.colour(), "grid": grid}
        return [self.attacker.post("/workflows/batch", body)]

    def _many_waiting(self) -> list[Answer]:
        """A full queue: another user must still get a turn."""
        body = {"workflow": self.victim.colour(), "priority": "high"}
        return [self.attacker.post("/workflows/execute", body) for _ in range(100)]


def _says_why(answer: Answer) -> bool:
    told = answer.json()
    return isinstance(told, dict) and bool(told.get("error"))


# -- JSON ------------------------------------------------------------------------------------------------
def _deep_json() -> bytes:
    return b'{"workflow": ' + b'{"a":' * 50_000 + b"1"


def _wide_json() -> bytes:
    return b'{"workflow": [' + b"[]," * 2_000_000 + b"1]}"


def _endless_number() -> bytes:
    return b'{"timeout_minutes": ' + b"9" * 900_000 + b"}"


# -- workflows -------------------------------------------------------------------------------------------
def _loading(content: bytes) -> Any:
    url = "data:image/png;base64," + base64.b64encode(content).decode()
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": url}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }


def _doubling(times: int, *, size: int = 1000) -> Any:
    graph: dict[str, Any] = {"1": {"class_type": "PrimitiveString", "inputs": {"value": "x" * size}}}
    for number in range(2, times + 2):
        link = [str(number - 1), 0]
        inputs = {"string_a": link, "string_b": link, "delimiter": ""}
        graph[str(number)] = {"class_type": "StringConcatenate", "inputs": inputs}
    last = str(times + 1)
    return graph | {"show": {"class_type": "PreviewAny", "inputs": {"source": [last, 0]}}}


def _many_outputs() -> Any:
    size = {"width": 16, "height": 16, "batch_size": 3000, "color": 5}
    return {
        "1": {"class_type": "EmptyImage", "inputs": size},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "many"}},
    }


def _regex() -> Any:
    inputs = {
        "string": "a" * 40 + "!", "regex_pattern": "(a+)+$", "case_insensitive": False, "multiline": False,
        "dotall": False,
    }  # fmt: skip
    return {
        "1": {"class_type": "RegexMatch", "inputs": inputs},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    }


def _chain(length: int, class_type: str, inputs: dict[str, Any], side: int = 16) -> Any:
    """A chain of nodes without cached results."""
    size = {"width": side, "height": side, "batch_size": 1, "color": time.time_ns() % 2**24}
    graph: dict[str, Any] = {"0": {"class_type": "EmptyImage", "inputs": size}}
    for number in range(1, length):
        graph[str(number)] = {"class_type": class_type, "inputs": {**inputs, "image": [str(number - 1), 0]}}
    save = {"images": [str(length - 1), 0], "filename_prefix": "chain"}
    return graph | {"save": {"class_type": "SaveImage", "inputs": save}}


def _endless() -> Any:
    """Many slow nodes: ComfyUI checks for an interruption between two of them."""
    return _chain(800, "ImageBlur", {"blur_radius": 31, "sigma": 10.0}, side=768)


def _circle() -> Any:
    graph = _chain(10, "ImageInvert", {})
    graph["1"]["inputs"]["image"] = ["9", 0]
    return graph


# -- files -----------------------------------------------------------------------------------------------
def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _huge_png(*, side: int = 60_000) -> bytes:
    """One bit per pixel, all equal: some kilobytes that decode to gigabytes."""
    packer = zlib.compressobj(9)
    line = b"\0" * (1 + side // 8)
    pixels = b"".join(packer.compress(line * 500) for _ in range(side // 500)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _icon() -> bytes:
    inner = _huge_png(side=12_000)
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inner), 22)
    return struct.pack("<HHH", 0, 1, 1) + entry + inner


def _archive() -> bytes:
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x", b"\0" * 200_000_000)
    return buffer.getvalue()
