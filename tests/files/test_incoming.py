"""Short incoming files stay in memory until they are stored, longer ones lie on the local disk."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from files import backend, incoming, storing
from files.errors import StorageUnavailable
from files.incoming import Incoming
from files.models import Kind

SHORT, LONG = bytes(incoming.IN_MEMORY), bytes(incoming.IN_MEMORY + 1)


@pytest.fixture(autouse=True)
def folder(settings, tmp_path) -> Path:
    settings.INCOMING_DIR = tmp_path / "incoming"
    return tmp_path / "incoming"


def write(into: Incoming, content: bytes, *, piece: int = 100_000) -> None:
    for start in range(0, len(content), piece):
        into.write(content[start : start + piece])


def test_a_short_file_is_never_on_the_local_disk(folder):
    with Incoming() as short:
        write(short, SHORT)
        assert short.content == SHORT
        assert not folder.exists()


def test_a_long_file_is_on_disk_until_the_end(folder):
    with Incoming() as long:
        write(long, LONG)
        assert isinstance(long.content, Path)
        assert long.content.read_bytes() == LONG
    assert list(folder.iterdir()) == []


def test_a_short_file_is_on_disk_for_those_that_need_a_path(folder):
    with Incoming() as short:
        short.write(b"one ")
        assert short.path.read_bytes() == b"one "
        short.write(b"two")
        assert short.content == short.path
        assert short.path.read_bytes() == b"one two"
        assert short.size == 7
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("content", [b"", SHORT, LONG])
def test_size_head_and_hash_are_those_of_all_bytes(content):
    with Incoming() as each:
        write(each, content)
        assert (each.size, each.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert content.startswith(each.head)


def test_nothing_is_written_after_the_end(folder):
    with Incoming() as abandoned:
        abandoned.write(b"x")
    abandoned.write(LONG)
    with pytest.raises(StorageUnavailable):
        _ = abandoned.path
    assert not folder.exists()


@pytest.mark.parametrize("content", [SHORT, LONG])
def test_a_disk_that_fails_while_it_is_stored_leaves_nothing(content, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    kept: list[str] = []
    put = backend.put

    def noted(key: str, *args: object, **given: object) -> None:
        kept.append(key)
        put(key, *args, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(backend, "put", noted)
    with pytest.raises(StorageUnavailable):
        storing.store(user_id=1, kind=Kind.OUTPUT, filename="a.bin", chunks=[content])
    [path] = map(backend.path_of, kept)
    assert path is not None
    assert not path.exists()


@pytest.mark.parametrize("content", [SHORT, LONG])
def test_its_permissions_in_the_storage_do_not_depend_on_its_size(content):
    before = os.umask(0o077)
    try:
        file = storing.store(user_id=1, kind=Kind.OUTPUT, filename="a.bin", chunks=[content])
    finally:
        os.umask(before)
    path = backend.path_of(file.key)
    assert path is not None
    assert path.stat().st_mode & 0o777 == 0o644
    storing.drop(file)
