"""Thousands of open live streams on one web process, while executions run.

    python -m benchmarks.streams [--streams 2000] [--executions 20]

Starts its own PostgreSQL, Valkey and web process. Executions are simulated by writing what a GPU worker writes
(`state_machine.begin`, `write_progress`, `finish`), so that no ComfyUI uses the measured CPU. Each stream follows
one of the executions. Reports memory per stream, the delay from writing an event to its arrival, and the latency
of GET /workflows/{id}/status, with and without streams.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import re
import threading
import time
import uuid
from multiprocessing.connection import Connection
from typing import Any

import psutil

from benchmarks.services import Services, command_line
from script.harness.stack import Stack

PROGRESS_SECONDS = 0.5  # as written by the runner
RUN_SECONDS = 20.0
STAMP = re.compile(rb"at (\d+\.\d+)")
CONTEXT = multiprocessing.get_context("spawn")


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--executions", type=int, default=20)
    options = parser.parse_args()
    with Services(durable=False, env={"RATE_LIMITS": "off", "STREAMS_PER_USER": "0"}) as services:
        stack = services.start_stack()
        os.environ.update({name: stack.env[name] for name in ("DATABASE_URL", "REDIS_URL", "DATA_DIR")})
        measure(stack, streams=options.streams, executions=options.executions)


def measure(stack: Stack, *, streams: int, executions: int) -> None:
    person = stack.person()
    graph = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": 1}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }
    ids = [person.execute(graph) for _ in range(executions)]
    assert stack.web is not None
    web = psutil.Process(stack.web.pid)
    latency(person, ids[0], seconds=2)  # warm
    alone = latency(person, ids[0], seconds=5)
    # Clients and players in processes of their own: what is measured must not wait for them here.
    mine, theirs = CONTEXT.Pipe()
    token = person.session.headers["Authorization"]
    CONTEXT.Process(target=follow_all, args=[theirs, stack.port, token, ids], daemon=True).start()
    ask(mine, 20)
    before = web.memory_info().rss
    seconds = ask(mine, streams - 20)
    time.sleep(2)
    after = web.memory_info().rss
    print(f"{streams} streams open in {seconds:.1f} s; the process has {web.num_threads()} threads")
    each = (after - before) / (streams - 20) / 1024
    print(f"memory: {each:.1f} KiB per stream ({before >> 20} to {after >> 20} MiB)")
    idle = latency(person, ids[0], seconds=5)
    players = CONTEXT.Process(target=play_all, args=[ids], daemon=True)
    began, cpu = time.monotonic(), web.cpu_times()
    players.start()
    time.sleep(3)  # until it has imported Django
    busy = latency(person, ids[0], seconds=RUN_SECONDS - 3)
    players.join()
    used = web.cpu_times()
    spent = used.user + used.system - cpu.user - cpu.system
    core = 100 * spent / (time.monotonic() - began)
    delays, ended = ask(mine, None)
    print(f"events received: {len(delays)}; streams that saw the end: {ended} of {streams}")
    p50, p99 = quantile(delays, 0.5), quantile(delays, 0.99)
    print(f"event delay: p50 {p50:.1f} ms, p99 {p99:.1f} ms, max {delays[-1]:.1f} ms")
    print(f"CPU of the web process meanwhile: {core:.0f} % of one core")
    for name, found in (("no streams", alone), (f"{streams} idle streams", idle), ("with events", busy)):
        p50, p99 = quantile(found, 0.5), quantile(found, 0.99)
        print(f"GET status, {name}: p50 {p50:.1f} ms, p99 {p99:.1f} ms ({len(found)} requests)")


def ask(pipe: Connection, what: int | None) -> Any:
    pipe.send(what)
    return pipe.recv()


def follow_all(pipe: Connection, port: int, token: str, ids: list[str]) -> None:
    """Opens as many streams as each number says; at None tells (sorted delays, streams that ended)."""
    followers = Followers(port, token, ids)
    while (count := pipe.recv()) is not None:
        began = time.monotonic()
        followers.open(count)
        pipe.send(time.monotonic() - began)
    followers.wait_ended(seconds=30)
    pipe.send((sorted(followers.delays), followers.ended))


def play_all(ids: list[str]) -> None:
    import django

    os.environ["DJANGO_SETTINGS_MODULE"] = "comfyserve.settings"
    django.setup()
    players = [threading.Thread(target=play, args=[id_]) for id_ in ids]
    for player in players:
        player.start()
        time.sleep(PROGRESS_SECONDS / len(ids))  # GPUs are not synchronised
    for player in players:
        player.join()


def latency(person, execution_id: str, *, seconds: float) -> list[float]:
    """Milliseconds of one request after the other, with a little pause, as one client would."""
    found = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.perf_counter()
        assert person.get(f"/workflows/{execution_id}/status").status_code == 200
        found.append((time.perf_counter() - began) * 1000)
        time.sleep(0.02)
    return sorted(found)


def quantile(found: list[float], q: float) -> float:
    return found[min(len(found) - 1, int(len(found) * q))] if found else float("nan")


def play(execution_id: str) -> None:
    """What a worker writes for one run: progress twice a second, a line now and then, the end."""
    from django.db import connection

    from workflows.models import Execution, Status
    from workflows.queue import state_machine
    from workflows.queue.claims import Claim
    from workflows.queue.execution_log import Line
    from workflows.queue.state_machine import Outcome

    token = uuid.uuid4()
    Execution.objects.filter(id=execution_id).update(claim_token=token, worker="bench", attempt=1)
    row = Execution.objects.get(id=execution_id)
    claim = Claim(
        output={}, hidden=False,
        execution_id=row.id, token=token, worker="bench", attempt=1, user_id=row.user_id, status="pending",
        timeout_minutes=30, started_at=None, posted_at=None, boot="", faults=0, losses=0, handled_alone=False,
        tries=0, request_id="", excluded=[], kind="", username="", priority="normal", models=[], webhook=False, batch=False,
        running_at_once=None, more=False, elapsed=0.0, prompt={}, extras={},
        taken_at=None,
    )  # fmt: skip
    steps = int(RUN_SECONDS / PROGRESS_SECONDS)
    state_machine.begin(claim, total_steps=steps)
    for step in range(steps):
        stamp = f"at {time.time():.6f}"
        columns = {
            "current_step": step, "total_steps": steps, "percentage": 100 * step / steps,
            "current_node": stamp, "eta_seconds": None,
        }  # fmt: skip
        lines = [Line(stamp)] if step % 4 == 0 else []
        state_machine.write_progress(claim, columns=columns, lines=lines)
        time.sleep(PROGRESS_SECONDS)
    state_machine.finish(claim, Outcome(Status.COMPLETED, gpu_seconds=1.0))
    connection.close()


class Followers:
    """Many clients in one thread. What a player wrote into an event is when it was written."""

    def __init__(self, port: int, token: str, ids: list[str]) -> None:
        self.delays: list[float] = []  # milliseconds
        self.ended = 0
        self.opened = 0
        self._port = port
        self._ids = ids
        self._token = token
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._tasks: list[asyncio.Task[None]] = []

    def open(self, count: int) -> None:
        asyncio.run_coroutine_threadsafe(self._open(count), self._loop).result(300)

    async def _open(self, count: int) -> None:
        gate = asyncio.Semaphore(50)

        async def one(number: int) -> None:
            async with gate:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                writer.write(
                    f"GET /workflows/{self._ids[number % len(self._ids)]}/events HTTP/1.1\r\nHost: x\r\n"
                    f"Authorization: {self._token}\r\n\r\n".encode()
                )
                head = await reader.readuntil(b"\r\n\r\n")
                assert b" 200 " in head, head
                self.opened += 1
            self._tasks.append(asyncio.create_task(self._follow(reader, writer)))

        await asyncio.gather(*(one(n) for n in range(count)))

    async def _follow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            if line.startswith(b"event: end"):
                self.ended += 1
                break
            if line.startswith(b"data:"):
                now = time.time()
                if found := STAMP.search(line):
                    self.delays.append((now - float(found[1])) * 1000)
        writer.close()

    def wait_ended(self, *, seconds: float) -> None:
        end = time.monotonic() + seconds
        while self.ended < self.opened and time.monotonic() < end:
            time.sleep(0.1)


if __name__ == "__main__":
    main()
