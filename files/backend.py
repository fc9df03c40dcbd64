"""File storage: Django's storage, extended with ranges, links and listing, and a single failure type.

Every function raises StorageUnavailable if the storage does not respond, and may block: call from threads
only.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

from django.conf import settings
from django.core.files import File as DjangoFile
from django.core.files.storage import FileSystemStorage, default_storage, storages

from . import names
from .errors import BytesMissing, StorageUnavailable

if TYPE_CHECKING:  # boto3 takes 10 MB in each process and a twentieth of its start: only S3 needs it
    from .s3 import Bucket

logger = logging.getLogger(__name__)


class Reader(Protocol):
    def read(self, size: int, /) -> bytes: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Stored:
    key: str
    size: int
    modified: datetime


def bucket() -> Bucket | None:
    """The bucket, if the storage is S3."""
    storage = storages["default"]
    return None if isinstance(storage, FileSystemStorage) else cast("Bucket", storage)


def _outages() -> tuple[type[Exception], ...]:
    """What the storage raises."""
    if bucket() is None:
        return (OSError,)
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    return OSError, Boto3Error, BotoCoreError, ClientError


def _has_no_such_key(exc: Exception) -> bool:
    answer = getattr(exc, "response", None) or {}  # botocore's ClientError has one
    return answer.get("Error", {}).get("Code") in ("NoSuchKey", "404")


@contextmanager
def _translated_errors(key: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as exc:
        raise BytesMissing("The bytes of this file are missing from the storage") from exc
    except _outages() as exc:
        if _has_no_such_key(exc):
            raise BytesMissing("The bytes of this file are missing from the storage") from exc
        logger.error("storage: %s: %s", key, exc, extra={"action": "storage_away"})
        raise StorageUnavailable from exc


def put(
    key: str, content: Path | bytes, *, content_type: str, on_bytes: Callable[[int], Any] | None = None
) -> None:
    """Store bytes, or move a file from the local disk into the storage, under a new key. The path may not
    exist afterwards. On disk, the file survives a power failure once this returns.

    `on_bytes` is called as bytes are transferred, for callers that must report progress.
    """
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    with _translated_errors(key):
        s3 = bucket()
        if s3 is not None:
            s3.put(key, content, content_type=content_type, on_bytes=on_bytes)
        else:
            try:
                _put_on_disk(key, content)
            except FileNotFoundError as exc:  # the parent folder is missing: the disk is not mounted
                raise StorageUnavailable from exc
    if (stored := size_of(key)) != size:
        delete(key)
        logger.error("storage: %s has %d bytes instead of %d", key, stored, size)
        raise StorageUnavailable


def _put_on_disk(key: str, content: Path | bytes) -> None:
    target = Path(default_storage.path(key))
    new = [*takewhile(lambda folder: not folder.is_dir(), target.parents)]
    if new:
        _durable.difference_update(new)  # in case they were removed meanwhile
        target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        _write_and_sync(target, content)
    else:
        with _Movable(content) as movable:
            default_storage.save(key, movable)
        _sync_one(target)
    _sync_folders(target)


def _write_and_sync(target: Path, content: bytes) -> None:
    """Under its final name at once: nobody knows the key yet. With the permissions of larger files."""
    with target.open("xb", buffering=0) as stream:
        os.fchmod(stream.fileno(), settings.FILE_UPLOAD_PERMISSIONS)
        view = memoryview(content)
        while view:
            view = view[stream.write(view) :]
        os.fsync(stream.fileno())


_durable: set[Path] = set()  # folders that this process has synced the way to


def _sync_folders(path: Path) -> None:
    """Sync the directory entries on the way to the bytes, some of which may be new: a row that references
    them is about to be committed.
    """
    root = Path(default_storage.path(""))
    passed = []
    for folder in path.parents:
        if not folder.is_relative_to(root):
            break
        _sync_one(folder)
        if folder in _durable:
            break
        passed.append(folder)
    _durable.update(passed)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Movable(DjangoFile):  # type: ignore[type-arg]  # not generic when it runs
    """Makes Django's disk storage move the file instead of copying it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.open("rb"), name=path.name)
        self._path = path

    def temporary_file_path(self) -> str:
        return str(self._path)


def size_of(key: str) -> int:
    """Bytes. BytesMissing if there is no such object."""
    with _translated_errors(key):
        s3 = bucket()
        if s3 is not None:
            answer = s3.client.head_object(Bucket=s3.bucket_name, Key=s3.key_of(key))
            return int(answer["ContentLength"])
        return int(default_storage.size(key))


def path_of(key: str) -> Path | None:
    """Where the storage has these bytes, to be read only; None if it is not on this machine's disks."""
    return None if bucket() is not None else Path(default_storage.path(key))


def responds() -> bool:
    """Whether the storage answers now. One small request."""
    try:
        size_of("nothing/of/this/name")
    except BytesMissing:
        return True
    except StorageUnavailable:
        return False
    return True


def read(key: str, start: int = 0, length: int | None = None) -> Reader:
    """A reader of that range; the caller closes it. It may raise what `reading` translates."""
    with _translated_errors(key):
        s3 = bucket()
        if s3 is not None:
            return _read_s3(s3, key, start, length)
        stream: IO[bytes] = default_storage.open(key, "rb")
        stream.seek(start)
        return stream


def _read_s3(s3: Bucket, key: str, start: int, length: int | None) -> Reader:
    part: dict[str, str] = {}
    if start or length is not None:
        end = "" if length is None else start + length - 1
        part = {"Range": f"bytes={start}-{end}"}
    answer: Any = s3.client.get_object(Bucket=s3.bucket_name, Key=s3.key_of(key), **part)
    body: Reader = answer["Body"]
    return body


reading = _translated_errors


def delete(key: str) -> None:
    """Does nothing if the object does not exist."""
    try:
        with _translated_errors(key):
            default_storage.delete(key)
    except BytesMissing:
        pass


def link(key: str, *, filename: str, content_type: str, attachment: bool) -> str | None:
    """A presigned URL; None if the storage makes none. No network access."""
    s3 = bucket()
    if s3 is None:
        return None
    disposition = names.disposition(filename, attachment=attachment)
    return str(
        s3.public_client.generate_presigned_url(
            "get_object",
            Params={
                "Bucket": s3.bucket_name,
                "Key": s3.key_of(key),
                "ResponseContentType": "application/octet-stream" if attachment else content_type,
                "ResponseContentDisposition": disposition,
            },
            ExpiresIn=s3.querystring_expire,
        )
    )


def walk(prefix: str) -> Iterator[Stored]:
    """Everything below `prefix`, such as "outputs/"."""
    with _translated_errors(prefix):
        s3 = bucket()
        yield from _walk_s3(s3, prefix) if s3 is not None else _walk_disk(prefix)


def _walk_disk(prefix: str) -> Iterator[Stored]:
    root = Path(default_storage.path(""))
    for path in (root / prefix).rglob("*"):
        try:
            found = path.stat()
        except FileNotFoundError:
            continue  # deleted concurrently
        if path.is_file():
            modified = datetime.fromtimestamp(found.st_mtime, UTC)
            yield Stored(path.relative_to(root).as_posix(), found.st_size, modified)


def _walk_s3(s3: Bucket, prefix: str) -> Iterator[Stored]:
    root = f"{s3.location}/" if s3.location else ""
    pages = s3.client.get_paginator("list_objects_v2").paginate(
        Bucket=s3.bucket_name, Prefix=f"{root}{prefix}"
    )
    for page in pages:
        for entry in page.get("Contents", ()):
            yield Stored(entry["Key"].removeprefix(root), entry["Size"], entry["LastModified"])


def unfinished(before: datetime) -> Iterator[tuple[str, str]]:
    """(key, upload id) of multipart uploads that began earlier and never completed. None on disk."""
    s3 = bucket()
    if s3 is None:
        return
    root = f"{s3.location}/" if s3.location else ""
    with _translated_errors("uploads in parts"):
        answer = s3.client.list_multipart_uploads(Bucket=s3.bucket_name, Prefix=root)
        for entry in answer.get("Uploads", ()):
            if entry["Initiated"] < before:
                yield entry["Key"], entry["UploadId"]


def abort(key: str, upload_id: str) -> None:
    s3 = bucket()
    if s3 is not None:
        with _translated_errors(key):
            s3.client.abort_multipart_upload(Bucket=s3.bucket_name, Key=key, UploadId=upload_id)
