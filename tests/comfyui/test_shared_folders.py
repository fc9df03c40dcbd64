"""Outputs read from ComfyUI's folders: the same bytes as over HTTP, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from comfyui import Client, OutputFile, Unreachable, shared_folders
from comfyui.bridge import Bridge
from comfyui.shared_folders import SharedFolder
from tests.comfyui.targets import picture

FILE = OutputFile("a.png", "mark/sub", "output")


@pytest.fixture
def folder(tmp_path: Path) -> SharedFolder:
    """With one file, FILE, and a secret beside it."""
    (tmp_path / "output" / "mark" / "sub").mkdir(parents=True)
    (tmp_path / "output" / "mark" / "sub" / "a.png").write_bytes(b"picture")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "output" / shared_folders.MARK).touch()
    return described(tmp_path / "output")


def described(path: Path) -> SharedFolder:
    return SharedFolder(str(path), path.stat().st_dev, path.stat().st_ino)


def content_of(file: OutputFile, folder: SharedFolder) -> bytes | None:
    with shared_folders.view(file, {"output": folder}) as content:
        return None if content is None else b"".join(content)


def test_a_file_is_read(folder):
    assert content_of(FILE, folder) == b"picture"


def test_a_large_file_is_read_in_pieces(folder):
    large = os.urandom(3 * shared_folders.CHUNK + 1)
    (Path(folder.path) / "mark/sub/a.png").write_bytes(large)
    with shared_folders.view(FILE, {"output": folder}) as content:
        assert content is not None
        pieces = list(content)
    assert b"".join(pieces) == large
    assert max(map(len, pieces)) == shared_folders.CHUNK


@pytest.mark.parametrize("changed", [{"device": 1}, {"inode": 1}, {"path": "/nothing/there"}])
def test_another_folder_than_comfyuis_is_not_read(folder, changed):
    assert content_of(FILE, replace(folder, **changed)) is None


@pytest.mark.parametrize("mark", ["none", "link", "hard link", "folder"])
def test_a_folder_that_comfyui_has_not_marked_is_not_read(folder, tmp_path, mark):
    """ComfyUI could name any folder of this machine."""
    path = Path(folder.path) / shared_folders.MARK
    path.unlink()
    if mark == "link":
        path.symlink_to(tmp_path / "secret")
    elif mark == "hard link":
        path.hardlink_to(tmp_path / "secret")
    elif mark == "folder":
        path.mkdir()
    assert content_of(FILE, folder) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("name", [shared_folders.MARK, "mark/sub/a.png"])
def test_a_file_of_another_user_than_comfyuis_is_not_read(folder, name):
    os.chown(Path(folder.path) / name, 12345, -1)
    assert content_of(FILE, folder) is None


@pytest.mark.parametrize("type_", ["temp", "input"])
def test_a_folder_that_comfyui_did_not_name_is_not_read(folder, type_):
    assert content_of(replace(FILE, type=type_), folder) is None


@pytest.mark.parametrize(
    ("subfolder", "filename"),
    [
        ("mark/sub", "b.png"), ("mark/sub", "../../../secret"), ("mark/sub", ""), ("mark/sub", "."),
        ("mark/sub", "/etc/hostname"), ("..", "secret"), ("mark/sub/../../..", "secret"), ("", "mark"),
        ("mark", "sub"), ("mark//sub", "a.png"), ("/mark/sub", "a.png"), ("mark/sub", "a.png\0"),
        ("mark\\sub", "a.png"), ("mark/sub/a.png", "a.png"), ("mark/sub", "v1..png"),
        ("mark/sub", "a\ud800.png"), ("mark\ud800", "a.png"),
    ],
)  # fmt: skip
def test_only_a_plain_path_below_the_folder_is_read(folder, subfolder, filename):
    (Path(folder.path) / "mark/sub/v1..png").write_bytes(b"a name that /view rejects")
    assert content_of(replace(FILE, subfolder=subfolder, filename=filename), folder) is None


def _link(path: Path, secret: Path) -> None:
    path.symlink_to(secret)


def _hard_link(path: Path, secret: Path) -> None:
    path.hardlink_to(secret)


def _fifo(path: Path, _: Path) -> None:
    os.mkfifo(path)


def _device(path: Path, _: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", [_link, _hard_link, _fifo, _device])
def test_what_is_no_plain_file_is_not_read(folder, tmp_path, make: Callable[[Path, Path], None]):
    path = Path(folder.path) / "mark/sub/a.png"
    path.unlink()
    make(path, tmp_path / "secret")
    assert content_of(FILE, folder) is None


def test_a_linked_folder_is_not_followed(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.png").write_bytes(b"secret")
    (Path(folder.path) / "mark/linked").symlink_to(tmp_path / "elsewhere")
    assert content_of(replace(FILE, subfolder="mark/linked"), folder) is None


def test_a_file_that_is_cut_while_it_is_read_is_not_complete(folder):
    path = Path(folder.path) / "mark/sub/a.png"
    path.write_bytes(bytes(2 * shared_folders.CHUNK))
    with shared_folders.view(FILE, {"output": folder}) as content:
        assert content is not None
        next(content)
        os.truncate(path, shared_folders.CHUNK)
        with pytest.raises(Unreachable):
            list(content)


def test_reading_keeps_nothing_open(folder):
    for file in (FILE, replace(FILE, filename="b.png"), replace(FILE, subfolder="mark", filename="sub")):
        content_of(file, folder)
    links = (os.path.realpath(descriptor) for descriptor in Path("/proc/self/fd").iterdir())
    assert [link for link in links if link.startswith(folder.path)] == []


@pytest.mark.parametrize(
    ("mounts", "local"),
    [
        ({"/": "ext4"}, True),
        ({"/": "overlay", "/outputs": "nfs4"}, False),
        ({"/": "ext4", "/out": "nfs4"}, True),
        ({"/": "nfs4", "/outputs/images": "xfs"}, True),
        ({"/": "ext4", "/outputs": "fuse.sshfs"}, False),
        ({}, False),
    ],
)
def test_only_folders_on_local_file_systems_are_shared(monkeypatch, mounts, local):
    """A read from a network folder that hangs could not be ended."""
    found = [SimpleNamespace(mountpoint=place, fstype=kind) for place, kind in mounts.items()]
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: found)
    assert shared_folders.is_local("/outputs/images") is local


def test_the_latest_of_several_mounts_at_one_place_counts(monkeypatch):
    found = [SimpleNamespace(mountpoint="/outputs", fstype=kind) for kind in ("ext4", "cifs")]
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: found)
    assert not shared_folders.is_local("/outputs/images")


def test_another_kernel_shares_no_folder():
    assert not shared_folders.is_own_kernel("00000000-0000-0000-0000-000000000000")


@pytest.mark.comfyui
@pytest.mark.parametrize("target", ["real"], indirect=True)
def test_a_real_comfyui_names_its_folders(client: Client, run):
    info = Bridge(client).info()
    assert info is not None
    [file] = run(picture(prefix="some where/ünlike")).files
    with client.view(file) as stream, shared_folders.view(file, info.folders) as content:
        assert content is not None
        assert b"".join(content) == b"".join(stream)
