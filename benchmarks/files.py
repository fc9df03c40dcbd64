"""Files in and out against `cp` and a plain S3 client, with peak memory; uploads in turns with `cp` and the
same hashes; and JSON beside slow transfers.

    python -m benchmarks.files [--mb 1024] [--slow 100] [--rounds 3] [--only-turns]

Starts and stops everything it needs (PostgreSQL, Valkey, an S3 server, a web process).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import psutil
import requests
from blake3 import blake3
from boto3.s3.transfer import TransferConfig

from benchmarks.services import Services
from script.harness.stack import Person, Stack
from script.local.s3 import S3

MB = 1024 * 1024
BUCKET = "benchmark"
RATE = 10_000  # bytes per second of a slow client
BOUNDARY = "benchmarkbenchmark"
HEAD = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="big.bin"\r\n\r\n'.encode()
TAIL = f"\r\n--{BOUNDARY}--\r\n".encode()
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
STATUS_CALLS = 300


class Peak:
    """Peak memory of a process during the block (RSS, MB above the start)."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._over = threading.Event()
        self.extra = 0.0

    def __enter__(self) -> Peak:
        first = self._process.memory_info().rss

        def look() -> None:
            while not self._over.wait(0.02):
                self.extra = max(self.extra, (self._process.memory_info().rss - first) / MB)

        self._thread = threading.Thread(target=look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


class Body:
    """A form with a file, read as it is sent."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = len(HEAD) + path.stat().st_size + len(TAIL)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        yield HEAD
        with self._path.open("rb") as stream:
            while piece := stream.read(MB):
                yield piece
        yield TAIL


def timed(do: Callable[[], Any]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


def fresh(path: Path, size: int) -> None:
    """New random bytes, so that deduplication does not apply."""
    with path.open("wb") as stream:
        for _ in range(size // MB):
            stream.write(os.urandom(MB))


def fetch(get: Callable[[], requests.Response], target: Path) -> None:
    with get() as answer, target.open("wb") as stream:
        answer.raise_for_status()
        for piece in answer.iter_content(MB):
            stream.write(piece)


def transfers(person: Person, stack: Stack, *, size: int, folder: Path, plain: Plain) -> None:
    source, target = folder / "source", folder / "target"
    small = {"file": ("small", os.urandom(1000))}  # warm up: clients and threads are created
    person.session.post(f"{stack.url}/files/upload", files=small, timeout=60).raise_for_status()
    fresh(source, size)
    assert stack.web is not None
    yardstick_in = timed(lambda: plain.put(source))
    file_id = ""
    with Peak(stack.web.pid) as peak:

        def put() -> None:
            nonlocal file_id
            file_id = upload(person, stack, source)

        ours_in = timed(put)
    tell(plain.name, "upload", size, ours_in, yardstick_in, peak)
    yardstick_out = timed(lambda: plain.get(target))
    with Peak(stack.web.pid) as peak:
        ours_out = timed(
            lambda: fetch(
                lambda: person.session.get(f"{stack.url}/files/{file_id}", stream=True, timeout=900), target
            )
        )
    same = subprocess.run(["cmp", source, target]).returncode == 0
    tell(plain.name, "download", size, ours_out, yardstick_out, peak, "" if same else "  BYTES DIFFER")


def upload(person: Person, stack: Stack, source: Path) -> str:
    answer = person.session.post(f"{stack.url}/files/upload", data=Body(source), headers=FORM, timeout=900)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["file_id"])


def tell(name: str, way: str, size: int, ours: float, theirs: float, peak: Peak, note: str = "") -> None:
    print(
        f"{name:<16} {way:<9} {size // MB} MB: ours {ours:6.2f} s ({size / MB / ours:5.0f} MB/s), "
        f"alone {theirs:6.2f} s ({size / MB / theirs:5.0f} MB/s), memory +{peak.extra:.0f} MB{note}"
    )


class Plain:
    name: str

    def put(self, source: Path) -> None: ...
    def get(self, target: Path) -> None: ...


class Cp(Plain):
    name = "disk, cp"

    def __init__(self, folder: Path) -> None:
        self._copy = folder / "copy"

    def put(self, source: Path) -> None:
        subprocess.run(["cp", source, self._copy], check=True)

    def get(self, target: Path) -> None:
        subprocess.run(["cp", self._copy, target], check=True)
        self._copy.unlink()


class Boto(Plain):
    name = "S3, boto3"

    def __init__(self, server: S3) -> None:
        self.client = boto3.client(
            "s3",
            endpoint_url=server.url,
            aws_access_key_id=server.access_key,
            aws_secret_access_key=server.secret_key,
            region_name="us-east-1",
        )
        self.client.create_bucket(Bucket=BUCKET)

    def put(self, source: Path) -> None:
        self.client.upload_file(str(source), BUCKET, "plain", Config=TransferConfig(max_concurrency=2))

    def get(self, target: Path) -> None:
        with target.open("wb") as stream:
            body = self.client.get_object(Bucket=BUCKET, Key="plain")["Body"]
            while piece := body.read(MB):
                stream.write(piece)


# -- uploads in turns with `cp` ------------------------------------------------------------------------
def copy_and_hash(source: Path) -> None:
    """`cp` to the disk, with the two hashes that an upload gets."""
    target = _copy_of(source)
    subprocess.run(["cp", source, target], check=True)
    sha256, blake = hashlib.sha256(), blake3()
    with target.open("rb") as stream:
        while piece := stream.read(MB):
            sha256.update(piece)
            blake.update(piece)
        os.fsync(stream.fileno())


def in_turns(person: Person, stack: Stack, *, folder: Path, size: int, count: int, rounds: int) -> None:
    """Upload `count` files of `size` bytes, one after the other, in turns with `copy_and_hash`."""
    sources = [folder / f"turn-{number}" for number in range(count)]

    def put(source: Path) -> None:
        upload(person, stack, source)

    ours: list[float] = []
    alone: list[float] = []
    for _ in range(rounds):
        for source in sources:
            fresh(source, size)
        for taken, do in ((alone, copy_and_hash), (ours, put)):
            os.sync()  # what is not measured
            taken.append(timed(partial(_each, sources, do)))
    megabytes = count * size / MB
    speeds = {name: megabytes / statistics.median(taken) for name, taken in (("ours", ours), ("cp", alone))}
    print(
        f"{count} x {size // MB} MB: upload {speeds['ours']:.0f} MB/s, cp with hashes {speeds['cp']:.0f} MB/s: "
        f"{statistics.median(b / a for a, b in zip(ours, alone, strict=True)):.2f} of its speed"
    )
    for source in sources:
        source.unlink()
        _copy_of(source).unlink()


def _copy_of(source: Path) -> Path:
    return source.with_name(f"{source.name}-copy")


def _each(sources: Sequence[Path], do: Callable[[Path], object]) -> None:
    for source in sources:
        do(source)


# -- slow clients ------------------------------------------------------------------------------------
def latencies(person: Person, execution_id: str) -> list[float]:
    path = f"/workflows/{execution_id}/status"
    found = []
    for _ in range(STATUS_CALLS):
        found.append(timed(lambda: person.get(path).raise_for_status()) * 1000)
        time.sleep(0.005)
    return sorted(found)


def percentiles(found: list[float]) -> str:
    return f"p50 {statistics.median(found):.1f} ms, p95 {found[int(len(found) * 0.95)]:.1f} ms"


@contextlib.contextmanager
def slow_clients(person: Person, count: int, file_id: str) -> Iterator[None]:
    """Half of them upload, half download, each at RATE."""
    over = threading.Event()
    sockets = [_slow_socket(person, sends=n % 2 == 0, file_id=file_id) for n in range(count)]

    def drive() -> None:
        while not over.wait(0.1):
            for n, connection in enumerate(sockets):
                if n % 2 == 0:
                    connection.sendall(b"x" * (RATE // 10))
                else:
                    connection.recv(RATE // 10)

    driver = threading.Thread(target=drive)
    driver.start()
    try:
        yield
    finally:
        over.set()
        driver.join()
        for connection in sockets:
            connection.close()


def _slow_socket(person: Person, *, sends: bool, file_id: str) -> socket.socket:
    address = urlsplit(person.url)
    connection = socket.socket()
    if not sends:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    connection.settimeout(60)
    connection.connect((address.hostname, address.port))
    token = str(person.session.headers["Authorization"])
    line = "POST /files/upload" if sends else f"GET /files/{file_id}"
    form = f"Content-Type: {FORM['Content-Type']}\r\nContent-Length: {500 * MB}\r\n" if sends else ""
    connection.sendall(
        f"{line} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {token}\r\n{form}\r\n".encode()
        + (HEAD if sends else b"")
    )
    return connection


def beside_slow_clients(person: Person, stack: Stack, *, count: int) -> None:
    workflow = {"1": {"class_type": "EmptyImage", "inputs": {}}}
    execution_id = person.execute(workflow)
    answer = person.session.post(f"{stack.url}/files/upload", files={"file": os.urandom(20 * MB)}, timeout=60)
    file_id = answer.json()["file_id"]
    latencies(person, execution_id)  # warm
    alone = latencies(person, execution_id)
    assert stack.web is not None
    with Peak(stack.web.pid) as peak, slow_clients(person, count, file_id):
        time.sleep(3)
        beside = latencies(person, execution_id)
    print(
        f"GET /workflows/{{id}}/status alone {percentiles(alone)}; beside {count} slow transfers "
        f"{percentiles(beside)}; memory +{peak.extra:.0f} MB"
    )


# -- all of it ---------------------------------------------------------------------------------------
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mb", type=int, default=1024)
    parser.add_argument("--slow", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3, help="of uploads in turns with cp (default 3)")
    parser.add_argument("--only-turns", action="store_true", help="nothing but the uploads in turns with cp")
    options = parser.parse_args()
    with Services(durable=False, env={"RATE_LIMITS": "off"}) as services, contextlib.ExitStack() as ends:
        folder, stack = services.folder, services.start_stack()
        person = stack.person()
        for size, count in ((options.mb * MB, 1), (10 * MB, options.mb // 10)):
            in_turns(person, stack, folder=folder, size=size, count=count, rounds=options.rounds)
        if options.only_turns:
            return
        transfers(person, stack, size=options.mb * MB, folder=folder, plain=Cp(folder))
        beside_slow_clients(person, stack, count=options.slow)
        server = S3(folder / "s3", log=folder / "s3.log")
        server.start()
        ends.callback(server.process.kill)
        server.wait()
        boto = Boto(server)
        keys = f"{server.access_key}:{server.secret_key}"
        stack.start_web(env={"STORAGE_URL": f"s3://{keys}@127.0.0.1:{server.port}/{BUCKET}?tls=false"})
        transfers(person, stack, size=options.mb * MB, folder=folder, plain=boto)


if __name__ == "__main__":
    main()
