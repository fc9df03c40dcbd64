"""Fixtures for files: a real web process, on local disk and on a real S3 server."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
from PIL import Image

from script.harness.stack import Person, Stack
from script.harness.waiting import wait_for
from script.local.s3 import S3

MAX_UPLOAD = 3_000_000  # bytes; small, so that tests need not send much
BUCKET = "comfyserve"


class Site:
    """The web process with one kind of storage, and a look behind it."""

    def __init__(self, stack: Stack, *, env: dict[str, str], bucket: Any = None) -> None:
        self.stack = stack
        self.env = env
        self.url = stack.url
        self.bucket = bucket
        self.folder = Path(stack.env["DATA_DIR"])

    def stored(self) -> set[str]:
        """The keys of everything in the storage."""
        if self.bucket is not None:
            return {entry.key for entry in self.bucket.objects.all()}
        root = self.folder / "files"
        return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}

    def lose(self, key: str) -> None:
        """Delete it behind ComfyServe's back."""
        if self.bucket is not None:
            self.bucket.Object(key).delete()
        else:
            (self.folder / "files" / key).unlink()

    def incoming(self) -> list[Path]:
        """What lies on this machine's disk of uploads that are under way."""
        folder = self.folder / "incoming"
        return list(folder.iterdir()) if folder.exists() else []

    def wait_for_no_incoming(self) -> None:
        """A file is deleted when the response has been sent, or just before."""
        wait_for(lambda: self.incoming() == [], seconds=60, what="an empty folder of incoming files")


@pytest.fixture(scope="session")
def s3_bucket(s3_server) -> Any:
    return make_bucket(s3_server)


def make_bucket(server: S3) -> Any:
    resource = boto3.resource(
        "s3",
        endpoint_url=server.url,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name="us-east-1",
    )
    return resource.create_bucket(Bucket=BUCKET)


def storage_url(server: S3, *, port: int | None = None) -> str:
    """With the port of a relay before it, if one is given."""
    keys = f"{server.access_key}:{server.secret_key}"
    return f"s3://{keys}@127.0.0.1:{port or server.port}/{BUCKET}?tls=false"


@pytest.fixture(scope="package", params=["disk", "s3"])
def _site(request, _stack) -> Iterator[Site]:
    env = {"MAX_UPLOAD_BYTES": str(MAX_UPLOAD), "INCOMING_DIR": f"{_stack.env['DATA_DIR']}/incoming"}
    # What a worker that a test killed was storing: its own place is cleaned after a day.
    shutil.rmtree(env["INCOMING_DIR"], ignore_errors=True)
    bucket = None
    if request.param == "s3":
        bucket = request.getfixturevalue("s3_bucket")
        env["STORAGE_URL"] = storage_url(request.getfixturevalue("s3_server"))
    _stack.start_web(env=env)
    yield Site(_stack, env=env, bucket=bucket)
    _stack.stop_web()


@pytest.fixture
def site(_site) -> Site:
    return _site


@pytest.fixture(scope="package")
def alice(_site) -> Person:
    """The same for all tests: signing up takes its time."""
    return _site.stack.person("alice")


@pytest.fixture(scope="package")
def bob(_site) -> Person:
    return _site.stack.person("bob")


@pytest.fixture
def newcomer(site) -> Person:
    """Someone without any file yet."""
    return site.stack.person("newcomer")


def upload(person: Person, content: bytes, name: str = "note.txt", **form: str) -> requests.Response:
    return person.session.post(
        f"{person.url}/files/upload", files={"file": (name, content)}, data=form, timeout=30
    )


def uploaded(person: Person, content: bytes, name: str = "note.txt", **form: str) -> str:
    answer = upload(person, content, name, **form)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["file_id"])


def picture(colour: Any = None, size: tuple[int, int] = (20, 10), kind: str = "PNG") -> bytes:
    """Of a colour that no other test has, unless one is given."""
    stream = BytesIO()
    Image.new("RGB", size, colour or tuple(os.urandom(3))).save(stream, kind)
    return stream.getvalue()


def assert_error(answer: requests.Response, status: int, error: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    body: dict[str, Any] = answer.json()
    assert list(body) == ["error", "message", "details", "timestamp", "request_id"]
    assert body["error"] == error
    return body
