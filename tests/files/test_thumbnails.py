"""A thumbnail is created after its picture was recorded: concurrent changes in between."""

from __future__ import annotations

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage

from files import backend, decoding, storing, thumbnails
from files.errors import StorageUnavailable
from files.models import File
from tests.factories import make_user
from tests.files.conftest import picture

pytestmark = pytest.mark.django_db


@pytest.fixture
def file(settings, tmp_path) -> File:
    disk = {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {"location": tmp_path / "storage"},
    }
    settings.STORAGES = {**settings.STORAGES, "default": disk}
    settings.INCOMING_DIR = tmp_path / "incoming"
    content = picture(size=(400, 300))
    key = default_storage.save("outputs/aa/one", ContentFile(content))
    return File.objects.create(
        user=make_user("ada"), kind="output", filename="a.png", content_type="image/png", size=len(content),
        sha256="0" * 64, width=400, height=300, key=key,
    )  # fmt: skip


@pytest.fixture
def committing(django_capture_on_commit_callbacks):
    return lambda: django_capture_on_commit_callbacks(execute=True)


def stored() -> set[str]:
    return {entry.key for prefix in storing.PREFIXES for entry in backend.walk(prefix)}


def test_a_picture_that_is_deleted_meanwhile_leaves_nothing(file, monkeypatch, committing):
    whole = decoding.thumbnail

    def deleted_meanwhile(*paths, content_type) -> bool:
        storing.delete(File.objects.get())
        return whole(*paths, content_type=content_type)

    monkeypatch.setattr(decoding, "thumbnail", deleted_meanwhile)
    with committing():
        assert thumbnails.key_of(file) is None
    assert stored() == set()


def test_a_thumbnail_added_since_the_row_was_read_is_deleted_with_the_file(file, committing):
    read_before = File.objects.get()
    thumbnails.key_of(file)
    assert len(stored()) == 2
    with committing():
        storing.delete(read_before)
    assert stored() == set()


def test_an_impossible_conversion_is_tried_once(file, monkeypatch):
    tries = []
    monkeypatch.setattr(decoding, "thumbnail", lambda *paths, **_: tries.append(paths))
    assert thumbnails.key_of(File.objects.get()) is None
    tried = len(tries)
    assert tried
    assert thumbnails.key_of(File.objects.get()) is None
    assert len(tries) == tried


def test_a_disk_that_fails_while_a_picture_is_decoded_does_not_deny_it_a_thumbnail(file, monkeypatch):
    whole, tries = decoding.thumbnail, []

    def fails_on_the_storage(source, target, *, content_type) -> bool:
        tries.append(source)
        return len(tries) > 1 and whole(source, target, content_type=content_type)

    monkeypatch.setattr(decoding, "thumbnail", fails_on_the_storage)
    assert thumbnails.key_of(file) in stored()
    assert tries[0] == backend.path_of(file.key) != tries[1]


def test_a_local_disk_that_fails_is_an_outage(file, settings, tmp_path):
    (tmp_path / "no folder").touch()
    settings.INCOMING_DIR = tmp_path / "no folder" / "incoming"
    with pytest.raises(StorageUnavailable):
        thumbnails.key_of(file)
    with pytest.raises(StorageUnavailable):
        decoding.measure(picture(kind="JPEG"), "image/jpeg")


def test_the_sweep_of_orphans_lets_it_be(file):
    key = thumbnails.key_of(file)
    assert key
    assert storing.referenced([key, file.key, "thumbnails/aa/other.webp"]) == {key, file.key}
