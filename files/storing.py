"""Storing and deleting bytes. Stored bytes get a row; bytes without a row are orphans.

Equal bytes of one user are stored once, and their rows share the key. Keys are unique and never reused: so,
under the lock of the user's storage, bytes may be deleted as soon as no row references their key, while the
same content, uploaded again, is stored under another one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from accounts import quotas, storage_use
from accounts.models import User
from comfyserve.api.errors import NotFound, ValidationFailed
from comfyserve.db import connections, rows
from comfyserve.ids import uuid7

from . import backend, conversion, decoding, names, sandbox, types
from .errors import BytesMissing, StorageUnavailable
from .incoming import Incoming
from .models import ConvertedFile, File, Kind

logger = logging.getLogger(__name__)

THUMBNAILS, CONVERTED = "thumbnails", "converted"
CHUNK_BYTES = 256 * 1024  # bytes read at once
MAX_SIDE = 2**31 - 1  # pixels: what the column holds, and what a PNG may have
PREFIXES = (*(f"{kind}s/" for kind in Kind.values), f"{THUMBNAILS}/", f"{CONVERTED}/")
# Columns that describe the bytes: equal in all rows that share them.
OF_BYTES = (
    "key", "thumbnail_key", "size", "sha256", "blake3", "content_type", "width", "height", "duration_seconds"
)  # fmt: skip


# -- storing -----------------------------------------------------------------------------------------
def accept(
    incoming: Incoming,
    *,
    user: User,
    filename: str,
    description: str = "",
    kind: str = Kind.UPLOAD,
    tags: Sequence[str] = (),
) -> File:
    """An upload, stored and with its row. Bytes that the user already has are not stored again.

    Raises ValidationFailed (empty, a picture too large, undecodable), LimitExceeded for the quota, and
    StorageUnavailable.
    Takes as long as the storage takes, with no transaction open.
    """
    try:
        file = _build_row(incoming, user_id=user.pk, kind=kind, filename=filename)
    except decoding.Undecodable as exc:
        raise ValidationFailed.of("file", str(exc), "UNDECODABLE") from exc
    file.description, file.tags = description, list(tags)
    _check(incoming, file)
    twin, missing = _twin(file)
    if _share(file, twin, user=user):
        return file
    connections.release()
    try:
        _put(incoming, file)
        with transaction.atomic():
            storage_use.check_room(user=user, adding=file.size)
            keep([file], missing=missing)
    except BaseException:
        drop(file)
        raise
    return file


def copy(original: File, *, filename: str, tags: Sequence[str] = ()) -> File:
    """Another upload of the same user over the same bytes, which are not sent again.

    Raises NotFound if the bytes were deleted meanwhile.
    """
    file = File(
        user_id=original.user_id,
        kind=Kind.UPLOAD,
        filename=names.clean(filename),
        tags=list(tags),
        expires_at=_expiry(),
        **{name: getattr(original, name) for name in OF_BYTES},
    )
    whole = _is_intact(original)
    with transaction.atomic():
        quotas.lock_storage(user=User(pk=original.user_id))
        if not whole or not File.objects.filter(user_id=original.user_id, key=original.key).exists():
            raise NotFound("The file no longer exists")
        file.save(force_insert=True)
    return file


def store(
    *,
    user_id: int,
    kind: str,
    filename: str,
    chunks: Iterable[bytes],
    on_bytes: Callable[[int], Any] | None = None,
    strip: bool = False,
) -> File:
    """Store the bytes and build their row, unsaved: the caller decides when it becomes visible.

    Save it with `keep`, or discard the bytes with `drop`. The key is unique, so that a writer that lost its
    claim overwrites nothing. `on_bytes` is called as bytes are transferred to the storage. With `strip` only
    what has no metadata is stored; raises CannotConvert where they cannot be removed.
    """
    with Incoming() as incoming, Incoming() if strip else nullcontext() as stripped:
        for chunk in chunks:
            incoming.write(chunk)
        if stripped is not None and _strip(incoming, stripped, filename, alive=on_bytes):
            incoming = stripped
        file = _build_row(incoming, user_id=user_id, kind=kind, filename=filename, strict=False)
        try:
            _put(incoming, file, on_bytes=on_bytes)
        except BaseException:
            drop(file)
            raise
    return file


def _strip(
    incoming: Incoming, stripped: Incoming, filename: str, *, alive: Callable[[int], Any] | None
) -> bool:
    """Write it without metadata to `stripped`. False if its type has none."""
    content_type = types.of_content(incoming.head, filename=filename)
    if not conversion.may_have_metadata(content_type):
        return False

    def wanted() -> bool:
        if alive is not None:
            alive(0)
        return True

    only = conversion.ConversionOptions(strip=True)
    sandbox.convert(incoming.path, stripped.path, only, content_type, alive=wanted)
    stripped.adopt()
    return True


# Saves the rows of `new_file`, a CTE before it with columns of files_file, all of the user %(user_id)s. Bytes
# that the user already has are shared: the new row gets the keys of those, unless their key is one of
# %(missing)s, which the storage does not have. The lock of the user's storage must have been taken by an
# earlier statement: a statement sees what was committed before it began.
_SHARED = {'"key"': "coalesce(known.key, new.key)", '"thumbnail_key"': "coalesce(known.thumbnail_key, '')"}
_COLUMNS = rows.names_of_columns(File)
KEEP_SQL = f"""
    INSERT INTO files_file ({", ".join(_COLUMNS)})
    SELECT {", ".join(_SHARED.get(column, f"new.{column}") for column in _COLUMNS)}
    FROM new_file AS new LEFT JOIN (
        -- With "= ANY", PostgreSQL reads the index of both columns even if it planned this for a small table.
        SELECT DISTINCT ON (sha256) sha256, key, thumbnail_key FROM files_file
        WHERE user_id = %(user_id)s AND sha256 = ANY(ARRAY(SELECT sha256 FROM new_file))
            AND key <> ALL(%(missing)s::varchar[])
        ORDER BY sha256, created_at DESC) AS known USING (sha256)
    RETURNING *
"""  # noqa: S608
# The rows of the parameter %(files)s, see `new_rows`.
GIVEN_SQL = "json_populate_recordset(NULL::files_file, %(files)s::json)"
# What `note_kept` needs of `kept`, a CTE of KEEP_SQL.
KEPT_SQL = "SELECT array_agg(ARRAY[id, key, thumbnail_key]) FROM kept"
_KEEP_GIVEN_SQL = f"WITH new_file AS (SELECT * FROM {GIVEN_SQL}), kept AS ({KEEP_SQL}) {KEPT_SQL}"  # noqa: S608


def keep(files: Sequence[File], *, missing: Sequence[str] = ()) -> None:
    """Save rows of one user whose bytes are in the storage. In a transaction, which may be retried.

    If the user already has the same bytes, that copy is referenced, and the new one is deleted after the
    commit. `missing` are keys that the storage does not have.
    """
    user_id = files[0].user_id
    parameters = {"files": new_rows(files), "user_id": user_id, "missing": list(missing)}
    with rows.pipeline():
        quotas.lock_storage(user=User(pk=user_id))
        cursor = rows.prepared(_KEEP_GIVEN_SQL, parameters)
    note_kept(files, cursor.fetchall()[0][0])


def new_rows(files: Sequence[File]) -> str:
    """The parameter `files` of GIVEN_SQL. Those with equal bytes get one key: that of the first."""
    keys: dict[str, str] = {}
    for file in files:
        own = file.__dict__.setdefault("_own_key", file.key)  # an earlier try may have changed the key
        file.key, file.thumbnail_key = keys.setdefault(file.sha256, own), ""
    return rows.as_json(files)


def note_kept(files: Sequence[File], kept: Sequence[Sequence[str]] | None) -> None:
    """Complete the objects of saved rows by what KEPT_SQL found. Their own bytes are given up after the
    commit where they share others.
    """
    keys = {id_: (key, thumbnail_key) for id_, key, thumbnail_key in kept or ()}
    for file in files:
        file.key, file.thumbnail_key = keys[file.pk]
        rows.mark_as_saved(file)
    spare = [(own, file) for file in files if (own := file.__dict__["_own_key"]) != file.key]
    for own, file in spare:
        transaction.on_commit(partial(give_up, own, shared=file))


def _build_row(incoming: Incoming, *, user_id: int, kind: str, filename: str, strict: bool = True) -> File:
    """Its row, unsaved. Unless `strict`, a file that cannot be decoded, or claims a size that no picture has,
    has no width and height.
    """
    filename = names.clean(filename)
    content_type = types.of_content(incoming.head, filename=filename)
    try:
        found = decoding.measure(incoming.content, content_type)
    except decoding.Undecodable:
        if strict:
            raise
        found = None
    if found and not strict and max(found.width or 0, found.height or 0) > MAX_SIDE:
        found = None
    return File(
        user_id=user_id,
        kind=kind,
        filename=filename,
        content_type=content_type,
        size=incoming.size,
        sha256=incoming.sha256,
        blake3=incoming.blake3,
        width=found.width if found else None,
        height=found.height if found else None,
        duration_seconds=found.duration if found else None,
        expires_at=_expiry(),
    )


def _expiry() -> datetime | None:
    return timezone.now() + timedelta(days=days) if (days := settings.FILE_EXPIRY_DAYS) else None


def _check(incoming: Incoming, file: File) -> None:
    if incoming.size == 0:
        raise ValidationFailed.of("file", "The file is empty", "EMPTY_FILE")
    if file.width and file.height and file.width * file.height > settings.MAX_PICTURE_PIXELS:
        raise ValidationFailed.of(
            "file",
            f"The picture claims {file.width} × {file.height} pixels; "  # noqa: RUF001
            f"at most {settings.MAX_PICTURE_PIXELS} are allowed",
            "PICTURE_TOO_LARGE",
        )


def _put(incoming: Incoming, file: File, *, on_bytes: Callable[[int], Any] | None = None) -> None:
    name = uuid7().hex
    file.key = f"{file.kind}s/{name[-2:]}/{name}"  # by random digits: the first ones are the time
    backend.put(file.key, incoming.content, content_type=file.content_type, on_bytes=on_bytes)


# -- deduplication -----------------------------------------------------------------------------------
def _duplicates(file: File) -> Iterable[File]:
    rows = File.objects.filter(user_id=file.user_id, sha256=file.sha256).order_by("key", "-created_at")
    return rows.distinct("key")


def _twin(file: File) -> tuple[File | None, list[str]]:
    """One of the user's with equal bytes, and the keys of those that the storage does not have."""
    missing: list[str] = []
    for twin in _duplicates(file):
        if _is_intact(twin):
            return twin, missing
        missing.append(twin.key)
    return None, missing


def _share(file: File, twin: File | None, *, user: User) -> bool:
    """Save the row with the key of `twin`, if it still exists. The quota is checked in any case."""
    if twin is None:
        storage_use.check_early(user=user, adding=file.size)
        return False
    with transaction.atomic():
        quotas.lock_storage(user=user)
        if not File.objects.filter(user=user, key=twin.key).exists():
            storage_use.check_room(user=user, adding=file.size)
            return False
        file.key, file.thumbnail_key = twin.key, twin.thumbnail_key
        file.save(force_insert=True)
        return True


def _is_intact(file: File | ConvertedFile) -> bool:
    try:
        return backend.size_of(file.key) == file.size
    except BytesMissing:
        logger.error("the bytes of %s are missing from the storage: %s", file.pk, file.key)
        return False


def give_up(own: str, *, shared: File | ConvertedFile) -> None:
    """Delete the bytes under the key `own`, since `shared` has the same; where the storage has lost those,
    they are restored from these first.
    """
    try:
        if not _is_intact(shared):
            _restore(shared, own)
    except (BytesMissing, StorageUnavailable):
        logger.warning("%s stays in the storage, as %s could not be checked", own, shared.key)
        return
    discard([own])


def _restore(shared: File | ConvertedFile, own: str) -> None:
    with Incoming() as incoming:
        read_into(incoming, own)
        backend.delete(shared.key)  # a part of it may be left
        backend.put(shared.key, incoming.content, content_type=shared.content_type)
    logger.warning("the bytes of %s were restored in the storage: %s", shared.pk, shared.key)


# -- deleting ----------------------------------------------------------------------------------------
def delete(file: File) -> None:
    """The row, and its bytes after the commit, unless other rows share them."""
    delete_all([file])


def delete_all(files: Sequence[File]) -> None:
    """The same for several, of any users. Bytes that are unreachable now are left to the cleanup."""
    with transaction.atomic():
        lock(files)
        doomed = File.objects.filter(id__in=[file.id for file in files])
        keys = {
            key for file in doomed for key in file.keys
        }  # a thumbnail may have been added since they were read
        doomed.delete()
        free = keys - referenced(keys)
        free |= _delete_converted(free)
        transaction.on_commit(lambda: discard(free))


def _delete_converted(keys: set[str]) -> set[str]:
    """Delete the conversions of these bytes; return the keys of the conversions."""
    rows = ConvertedFile.objects.filter(source_key__in=keys)
    found = set(rows.exclude(key="").values_list("key", flat=True))
    rows.delete()
    return found


def lock(files: Sequence[File]) -> None:
    """Lock the storage of their users, until the transaction ends."""
    for user_id in sorted({file.user_id for file in files}):
        quotas.lock_storage(user=User(pk=user_id))


def referenced(keys: Iterable[str]) -> set[str]:
    """Those of the keys that a row references as its bytes, thumbnail, or conversion."""
    wanted = set(keys)
    converted = {key for key in wanted if key.startswith(f"{CONVERTED}/")}
    if converted:
        return referenced(wanted - converted) | set(
            ConvertedFile.objects.filter(key__in=converted).values_list("key", flat=True)
        )
    rows = File.objects.filter(key__in={own for key in wanted for own in _source_keys(key)})
    found = {key for pair in rows.values_list("key", "thumbnail_key") for key in pair}
    return found & wanted


def _source_keys(key: str) -> list[str]:
    """A thumbnail's key starts with the key of its source bytes, which is indexed: see thumbnails."""
    if not key.startswith(f"{THUMBNAILS}/"):
        return [key]
    place = key.removeprefix(f"{THUMBNAILS}/").partition(".")[0]
    return [f"{kind}s/{place}" for kind in Kind.values]


def drop(file: File) -> None:
    """Delete the bytes of a file whose row was never saved."""
    discard([file.__dict__.get("_own_key", file.key)])


def discard(keys: Iterable[str]) -> None:
    """Delete bytes that no row references. Unreachable ones are left to the cleanup."""
    for key in keys:
        if not key or key == File.NONE:
            continue
        try:
            backend.delete(key)
        except StorageUnavailable:
            logger.warning("%s stays in the storage until the next cleanup", key)


@contextmanager
def opened(file: File | ConvertedFile) -> Iterator[Any]:
    """A reader of the bytes. Raises StorageUnavailable, also while reading, and BytesMissing."""
    with _opened(file.key) as reader:
        yield reader


@contextmanager
def _opened(key: str) -> Iterator[backend.Reader]:
    reader = backend.read(key)
    try:
        with backend.reading(key):
            yield reader
    finally:
        reader.close()


def read_into(incoming: Incoming, key: str) -> None:
    """Copy stored bytes to this machine. Raises StorageUnavailable and BytesMissing."""
    with _opened(key) as reader:
        while piece := reader.read(CHUNK_BYTES):
            incoming.write(piece)
