"""API clients under faults: each submits, cancels, retries, reads and follows executions, and records what it
was promised.

Every workflow has a number, and produces an image of that colour. A request without a response is repeated
with the same `Idempotency-Key`, so one number must never become two executions.
"""

from __future__ import annotations

import base64
import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import requests
from PIL import Image

from script.fault_injection.listener import TERMINAL, Listener
from script.harness import graphs
from script.harness.sse import EventStream
from script.harness.stack import Stack

PRIORITIES = ["low", "normal", "normal", "high"]
GREEDY_BATCH = 30
# Seconds of retries before a client reports a failure: longer than a dead request keeps its Idempotency-Key.
PATIENCE = 180.0


@dataclass
class Promise:
    """One accepted execution, and all responses its client received about it."""

    number: int
    kind: str
    pictures: int  # of images that it produces
    hooked: bool
    owner: Client
    id: str = ""
    cancelled: str = ""  # "yes": response 200; "no": response 409; "perhaps": no response yet
    seen_statuses: set[str] = field(default_factory=set)  # terminal statuses observed through any channel
    result: dict[str, Any] = field(default_factory=dict)  # number of images, once it had ended
    seen: list[tuple[int, ...]] = field(default_factory=list)  # the colours of its images


class Ledger:
    """The shared record of all clients. Appending is thread-safe."""

    def __init__(self) -> None:
        self.promises: list[Promise] = []
        self.complaints: list[str] = []
        self.answers: Counter[str] = Counter()  # failures instead of a response -> their number
        self.followed = 0

    def complain(self, text: str) -> None:
        self.complaints.append(text)
        print(f"  ! {text}", flush=True)


class Client(threading.Thread):
    """One client that works until `stop`. Has its own random generator, so that a seed is reproducible."""

    def __init__(
        self,
        stack: Stack,
        ledger: Ledger,
        *,
        number: int,
        seed: int,
        hook: str,
        pause: float,
        greedy: bool = False,
    ) -> None:
        super().__init__(name=f"client-{number}", daemon=True)
        self.ledger = ledger
        self.greedy = greedy  # submits very many at once, which must not slow down the others
        self.stop = threading.Event()
        self._numbers = itertools.count(number * 0x10000 + 1)
        self._chance = random.Random(f"{seed}.{number}")
        self._hook = hook
        self._pause = pause
        self._person = stack.person(f"client{number}x")
        self.username = self._person.email.partition("@")[0]
        self.listener = Listener(self._person, name=f"listener-{number}")
        self.secret = str(self._person.get("/auth/webhook-secret").json()["secret"])

    # -- actions -------------------------------------------------------------------------------------
    def run(self) -> None:
        self.listener.start()
        self.listener.connected.wait(30)
        try:
            while not self.stop.is_set():
                size = GREEDY_BATCH if self.greedy else self._chance.randint(1, 4)
                batch = [self._submit() for _ in range(size)]
                for promise in filter(None, batch):
                    self._attend(promise)
                self.stop.wait(self._chance.uniform(0, self._pause))
        except Exception as exc:  # noqa: BLE001  (a client that dies must not look like one that is content)
            self.ledger.complain(f"{self.name} failed: {exc!r}")

    def _submit(self) -> Promise | None:
        number = next(self._numbers)
        kind, workflow, pictures = workflow_of(number, self._chance)
        hooked = self._chance.random() < 0.4
        promise = Promise(number=number, kind=kind, pictures=pictures, hooked=hooked, owner=self)
        body: dict[str, Any] = {
            "workflow": workflow,
            "priority": "normal" if self.greedy else self._chance.choice(PRIORITIES),
            "metadata": {"number": number},
        }
        if hooked:
            body |= {"webhook_url": self._hook}
        return self._accepted(promise, "/workflows/execute", body)

    def _accepted(self, promise: Promise, path: str, body: Any) -> Promise | None:
        key = {"Idempotency-Key": f"{promise.number}-{path}"}
        answer = self.ask(
            "POST", path, json=body, headers=key, again=lambda answer: answer.status_code == 409
        )
        if answer is None:
            return None
        if answer.status_code != 200:
            self.ledger.complain(f"submission {promise.number} got {answer.status_code}: {answer.text[:200]}")
            return None
        promise.id = answer.json()["execution_id"]
        self.ledger.promises.append(promise)
        return promise

    def _attend(self, promise: Promise) -> None:
        """Perform random actions on an own execution, then wait for its end."""
        deed = self._chance.random()
        if deed < 0.1:
            self._chance_pause(2.0)
            self._cancel(promise)
        elif deed < 0.25:
            self._follow(promise)
        self._see_end(promise)
        if promise.result.get("status") in ("failed", "cancelled") and self._chance.random() < 0.5:
            again = Promise(
                number=promise.number, kind=promise.kind, pictures=promise.pictures,
                hooked=promise.hooked, owner=self,
            )  # fmt: skip
            if self._accepted(again, f"/workflows/{promise.id}/retry", None):
                self._see_end(again)

    def _chance_pause(self, longest: float) -> None:
        self.stop.wait(self._chance.uniform(0, longest))

    def _cancel(self, promise: Promise) -> None:
        promise.cancelled = "perhaps"
        answer = self.ask("POST", f"/workflows/{promise.id}/cancel")
        if answer is not None and answer.status_code in (200, 409):
            # The first request, whose response was lost, may have done it already.
            asked_once = not getattr(answer, "repeated", False)
            promise.cancelled = "yes" if answer.status_code == 200 else "no" if asked_once else "perhaps"
        elif answer is not None:
            self.ledger.complain(f"cancel of {promise.id} got {answer.status_code}: {answer.text[:200]}")

    def _see_end(self, promise: Promise) -> None:
        while not self.stop.is_set():
            answer = self.ask("GET", f"/workflows/{promise.id}")
            if answer is None:
                return
            if answer.status_code != 200:
                self.ledger.complain(f"{promise.id} got {answer.status_code}: {answer.text[:200]}")
                return
            if answer.json()["status"] in TERMINAL:
                self.note_end(promise, answer.json())
                return
            self._chance_pause(1.0)

    def note_end(self, promise: Promise, result: dict[str, Any]) -> None:
        promise.result = result
        promise.seen_statuses.add(result["status"])
        promise.seen = [colour for image in images(result) if (colour := self._colour(image["url"]))]

    def _colour(self, url: str) -> tuple[int, ...] | None:
        content = self._bytes(url)
        if content is None:
            return None
        found = Image.open(BytesIO(content)).convert("RGB").getpixel((0, 0))
        assert isinstance(found, tuple)
        return found

    def _bytes(self, url: str) -> bytes | None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                answer = requests.get(url, timeout=10)
                if answer.status_code == 200:
                    return answer.content
                self.ledger.answers[f"download {answer.status_code}"] += 1
            except requests.RequestException as exc:
                self.ledger.answers[f"download {type(exc).__name__}"] += 1
            time.sleep(0.5)
        self.ledger.complain(f"no bytes for {PATIENCE:g} s from {url}")
        return None

    # -- following -----------------------------------------------------------------------------------
    def _follow(self, promise: Promise) -> None:
        """Follow the live stream to its end, resuming after each disconnect."""
        last: int | None = None
        end = time.monotonic() + PATIENCE
        while not self.stop.is_set() and time.monotonic() < end:
            numbers, over = self._follow_once(promise, last)
            if numbers != sorted(set(numbers)) or (numbers and last is not None and numbers[0] <= last):
                self.ledger.complain(f"the stream of {promise.id} repeats events: {last}, then {numbers}")
            last = numbers[-1] if numbers else last
            if over:
                self.ledger.followed += 1
                return
            self._chance_pause(1.0)

    def _follow_once(self, promise: Promise, last: int | None) -> tuple[list[int], bool]:
        """(event ids, whether the end was reached)."""
        headers = {"Authorization": str(self._person.session.headers["Authorization"])}
        if last is not None:
            headers["Last-Event-ID"] = str(last)
        try:
            stream = EventStream(f"{self._person.url}/workflows/{promise.id}/events", headers=headers)
        except requests.RequestException as exc:
            self.ledger.answers[f"stream {type(exc).__name__}"] += 1
            return [], False
        with stream:
            if stream.status == 204:
                return [], True
            over = False
            while not self.stop.is_set():
                try:
                    event = stream.next(seconds=30)
                except AssertionError:
                    break
                if event is None:
                    break
                over |= event.name == "end"
                if event.name == "status" and event.data["status"] in TERMINAL:
                    promise.seen_statuses.add(event.data["status"])
            return [event.id for event in stream.seen if event.id is not None], over

    # -- requests ------------------------------------------------------------------------------------
    def ask(
        self,
        method: str,
        path: str,
        *,
        again: Callable[[requests.Response], bool] = lambda _: False,
        **options: Any,
    ) -> requests.Response | None:
        """The response, with as many retries as needed. None: stopped, or retries exhausted."""
        end, repeated = time.monotonic() + PATIENCE, False
        while time.monotonic() < end:
            try:
                answer = self._person.session.request(
                    method, self._person.url + path, timeout=(3, 20), **options
                )
            except requests.RequestException as exc:
                self.ledger.answers[type(exc).__name__] += 1
            else:
                if answer.status_code < 500 and not again(answer):
                    answer.repeated = repeated  # type: ignore[attr-defined]
                    return answer
                self._judge_refusal(answer)
            repeated = True
            if self.stop.wait(0.5):
                return None
        self.ledger.complain(f"{method} {path} was not answered for {PATIENCE:g} s")
        return None

    def _judge_refusal(self, answer: requests.Response) -> None:
        self.ledger.answers[str(answer.status_code)] += 1
        if answer.status_code == 503 and "Retry-After" not in answer.headers:
            self.ledger.complain(f"a 503 without Retry-After: {answer.text[:200]}")
        if answer.status_code not in (409, 503):
            self.ledger.complain(f"{answer.request.method} {answer.url} got {answer.status_code}")


def images(result: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = result.get("outputs", {}).get("images", [])
    return found


# -- workflows -----------------------------------------------------------------------------------------
def workflow_of(number: int, chance: random.Random) -> tuple[str, graphs.Graph, int]:
    """(kind, graph, number of images)."""
    kind = chance.choices(["colour", "slow", "input", "failing"], [60, 22, 12, 6])[0]
    if kind == "input":
        picture = base64.b64encode(png(colour_of(number))).decode()
        return kind, _loading(f"data:image/png;base64,{picture}"), 1
    workflow = graphs.colour(number)
    if kind == "slow":
        workflow |= _slow(chance.uniform(0.3, 3.0), seed=number)
        return kind, workflow, 2
    if kind == "failing":
        workflow["3"] = {
            "class_type": "TestFail",
            "inputs": {"image": ["1", 0], "message": f"broke {number}"},
        }
        workflow["2"]["inputs"]["images"] = ["3", 0]
        return kind, workflow, 0
    return kind, workflow, 1


def _slow(seconds: float, *, seed: int) -> graphs.Graph:
    return {
        "5": {"class_type": "TestSleep", "inputs": {"seconds": seconds, "steps": 10, "seed": seed}},
        "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "slept"}},
    }


def _loading(value: str) -> graphs.Graph:
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": value}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "loaded"}},
    }


def colour_of(number: int) -> tuple[int, int, int]:
    return number >> 16 & 255, number >> 8 & 255, number & 255


def expected(promise: Promise) -> list[tuple[int, ...]]:
    """The colours of its images, in any order."""
    colours: list[tuple[int, ...]] = []
    if promise.kind != "failing":
        colours.append(colour_of(promise.number))
    if promise.kind == "slow":
        colours.append((promise.number % 256,) * 3)
    return colours


def png(colour: tuple[int, int, int]) -> bytes:
    stream = BytesIO()
    Image.new("RGB", (16, 16), colour).save(stream, "PNG")
    return stream.getvalue()
