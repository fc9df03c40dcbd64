"""Cleanup of files: what the sweep removes and keeps; `manage.py clean` reports both."""

from __future__ import annotations

import os
import shutil
import uuid
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any, Protocol

import pytest
from django.core.management import call_command

from comfyserve import storage_url
from files import cleaning
from files.models import File
from script.harness.stack import DATABASE
from tests import databases
from tests.factories import make_user
from tests.files.conftest import Site, picture, uploaded


class Clean(Protocol):
    def __call__(self, *options: str) -> str: ...


@pytest.fixture
def clean(site, settings, django_db_blocker) -> Clean:
    """`manage.py clean --only=files` in this process, on the database and storage of the site; its output."""
    settings.STORAGES = {**settings.STORAGES, "default": storage_of(site)}
    settings.INCOMING_DIR = site.folder / "incoming"

    def run(*options: str) -> str:
        output = StringIO()
        with django_db_blocker.unblock(), databases.using(DATABASE):
            call_command("clean", "--only=files", *options, stdout=output)
        return output.getvalue()

    return run


def storage_of(site: Site) -> dict[str, Any]:
    url = site.env.get("STORAGE_URL", "")
    return storage_url.parse(url, default=site.folder / "files", link_seconds=60)


def expire(site: Site, file_id: str) -> None:
    site.stack.sql("UPDATE files_file SET expires_at = now() - interval '1 second' WHERE id = %s", file_id)


def exists(site: Site, file_id: str) -> bool:
    return bool(site.stack.sql("SELECT 1 FROM files_file WHERE id = %s", file_id))


class TestConverted:
    def test_files_converted_for_a_download_are_removed_after_a_while(self, alice, site, clean):
        file_id = uploaded(alice, picture())
        assert alice.get(f"/files/{file_id}?format=webp").status_code == 200
        assert "converted file" not in clean()
        [(key,)] = site.stack.sql(
            "UPDATE files_convertedfile SET created_at = now() - interval '8 days'"
            " WHERE source_key = (SELECT key FROM files_file WHERE id = %s) RETURNING key",
            file_id,
        )
        assert key in site.stored()
        assert "webp of uploads/" in clean()
        assert key not in site.stored()
        assert alice.get(f"/files/{file_id}?format=webp").status_code == 200, "it is made anew"

    def test_it_is_deleted_with_an_expired_original(self, alice, site, clean):
        before = site.stored()
        file_id = uploaded(alice, picture())
        assert alice.get(f"/files/{file_id}?format=webp").status_code == 200
        expire(site, file_id)
        clean()
        assert site.stored() <= before


class TestExpired:
    def test_an_expired_file_is_deleted_with_its_bytes_and_thumbnail(self, alice, site, clean):
        before = site.stored()
        file_id = uploaded(alice, picture(), "cat.png")
        expire(site, file_id)
        assert f"{file_id} cat.png" in clean()
        assert not exists(site, file_id)
        assert site.stored() <= before

    def test_bytes_that_another_file_shares_stay(self, alice, site, clean):
        content = picture()
        old, new = uploaded(alice, content), uploaded(alice, content)
        expire(site, old)
        clean()
        assert alice.get(f"/files/{new}").content == content
        assert alice.get(f"/files/{new}/thumbnail").status_code == 200

    def test_a_dry_run_removes_nothing(self, alice, site, clean):
        file_id = uploaded(alice, picture())
        expire(site, file_id)
        before = site.stored()
        assert "would remove: " in clean("--dry-run")
        assert exists(site, file_id)
        assert site.stored() == before

    def test_a_file_stays_until_the_execution_that_needs_it_has_ended(self, alice, site, clean):
        file_id = uploaded(alice, picture())
        workflow = {"1": {"class_type": "LoadImage", "inputs": {"image": file_id}}}
        execution_id = alice.execute(workflow)
        expire(site, file_id)
        assert file_id not in clean()
        alice.post(f"/workflows/{execution_id}/cancel")
        assert file_id in clean()

    def test_a_pin_of_a_deleted_execution_keeps_nothing(self, alice, site, clean):
        file_id = uploaded(alice, picture())
        site.stack.sql("INSERT INTO files_pin (file_id, holder) VALUES (%s, %s)", file_id, uuid.uuid4())
        expire(site, file_id)
        assert file_id in clean()


class TestOrphans:
    @pytest.fixture
    def put(self, site):
        """Put bytes into the storage beside us; disk only knows how old they are to be."""

        def put(key: str, *, age: timedelta) -> None:
            path = site.folder / "files" / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"nobody's")
            then = (datetime.now(UTC) - age).timestamp()
            os.utime(path, (then, then))

        if site.bucket is not None:
            pytest.skip("S3 does not let us make an old object")
        return put

    def test_old_bytes_without_a_row_go_and_young_ones_stay(self, site, put, clean):
        old = {"uploads/zz/orphan", "outputs/zz/orphan", "thumbnails/zz/orphan.webp"}
        for key in old:
            put(key, age=timedelta(days=2))
        put("uploads/zz/young", age=timedelta(hours=1))
        told = clean()
        assert {key for key in old if key in told} == old
        assert {"uploads/zz/young"} == site.stored() & {*old, "uploads/zz/young"}

    def test_old_bytes_with_a_row_stay(self, alice, site, clean):
        file_id = uploaded(alice, picture(), "kept.png")
        assert alice.get(f"/files/{file_id}/thumbnail").status_code == 200
        if site.bucket is None:
            for path in (site.folder / "files").rglob("*"):
                os.utime(path, (0, 0))
        clean()
        assert alice.get(f"/files/{file_id}/thumbnail").status_code == 200
        assert alice.get(f"/files/{file_id}").status_code == 200

    def test_an_abandoned_incoming_file_is_deleted(self, site, clean):
        left, under_way = site.folder / "incoming" / "left", site.folder / "incoming" / "under-way"
        left.write_bytes(b"x")
        under_way.write_bytes(b"x")
        os.utime(left, (0, 0))
        clean()
        assert (left.exists(), under_way.exists()) == (False, True)
        under_way.unlink()


class TestOrphansByAge:
    """On both storages, each in a corner of its own. S3 makes no old objects: what is old is moved."""

    KEYS = ("uploads/zz/orphan", "outputs/zz/orphan", "thumbnails/zz/orphan.webp")
    ALL_ARE_OLD = timedelta(seconds=-60)

    @pytest.fixture(autouse=True)
    def corner(self, db, site, settings, tmp_path):
        from files import backend

        url = site.env.get("STORAGE_URL", "")
        found = storage_url.parse(url, default=tmp_path / "corner", link_seconds=60)
        if site.bucket is not None:
            found["OPTIONS"]["location"] = f"corner-{tmp_path.name}"
        settings.STORAGES = {**settings.STORAGES, "default": found}
        (tmp_path / "bytes").write_bytes(b"nobody's")
        for key in (*self.KEYS, "uploads/zz/kept"):
            backend.put(key, shutil.copy(tmp_path / "bytes", tmp_path / "copy"), content_type="text/plain")
        File.objects.create(
            user=make_user("keeper"), key="uploads/zz/kept", kind="upload", filename="kept", size=8,
            content_type="text/plain", sha256="0" * 64,
        )  # fmt: skip

    def stored(self) -> set[str]:
        from files import backend, storing

        return {stored.key for prefix in storing.PREFIXES for stored in backend.walk(prefix)}

    def test_young_ones_stay(self):
        assert list(cleaning.orphans()) == []
        assert self.stored() == {*self.KEYS, "uploads/zz/kept"}

    def test_old_ones_go_and_what_a_row_names_stays(self):
        gone = list(cleaning.orphans(grace=self.ALL_ARE_OLD))
        assert {(item.name, item.size) for item in gone} == {(key, 8) for key in self.KEYS}
        assert self.stored() == {"uploads/zz/kept"}

    def test_a_dry_run_names_the_same_and_removes_nothing(self):
        gone = list(cleaning.orphans(dry_run=True, grace=self.ALL_ARE_OLD))
        assert {item.name for item in gone} == set(self.KEYS)
        assert self.stored() == {*self.KEYS, "uploads/zz/kept"}


class TestOnS3:
    def test_an_upload_in_parts_that_never_ended_is_aborted(self, site, s3_settings):
        client = site.bucket.meta.client
        client.create_multipart_upload(Bucket=site.bucket.name, Key="uploads/zz/parts")
        [gone] = cleaning.unfinished(grace=timedelta(seconds=-5))
        assert gone.name == "uploads/zz/parts"
        assert list(cleaning.unfinished(grace=timedelta(seconds=-5))) == []

    @pytest.fixture
    def s3_settings(self, db, site, settings):
        if site.bucket is None:
            pytest.skip("of S3 only")
        settings.STORAGES = {**settings.STORAGES, "default": storage_of(site)}
