"""Converted files: made once per set of parameters, stored beside the original, and deleted with it.

`of` is for downloads: the first request converts, in this process, and the others wait for it. `make` and
`keep` are for outputs that are converted before their rows exist.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from uuid import UUID, uuid4

from django.conf import settings
from django.db import transaction

from comfyserve.api.errors import NotFound, Unavailable, ValidationFailed
from comfyserve.db import connections, rows

from . import backend, sandbox, storing, types
from .conversion import ConversionOptions
from .conversion_errors import CannotConvert
from .incoming import Incoming
from .models import ConvertedFile, File

logger = logging.getLogger(__name__)

MAX_CONVERTED = (
    16  # converted files of the same bytes, besides those that results reference; the oldest are deleted
)
WAIT_SECONDS = 60.0  # for a conversion in progress
LOOK_SECONDS = 0.2  # while another process converts it


def of(file: File, wanted: ConversionOptions, *, seconds: float = WAIT_SECONDS) -> ConvertedFile:
    """The file as wanted, made now unless it is there. May take as long as `seconds`.

    Raises ValidationFailed where it cannot be made, Unavailable where it takes longer, StorageUnavailable,
    and NotFound where the file goes meanwhile.
    """
    try:
        wanted.for_type(file.content_type)
    except CannotConvert as exc:
        raise refusal(str(exc)) from exc
    ends = time.monotonic() + seconds
    while True:
        found = ConvertedFile.objects.filter(source_key=file.key, parameters=wanted.parameters).first()
        if found is not None and found.key:
            return found
        token = _take(file, wanted)
        if token is not None:
            return _make_and_record(file, wanted, token)
        if found is not None and found.error:
            raise refusal(found.error)
        if time.monotonic() > ends:
            raise Unavailable("The file is being converted; try again shortly", retry_after=10)
        connections.release()
        time.sleep(LOOK_SECONDS)


def is_as_wanted(file: File, wanted: ConversionOptions) -> bool:
    """Whether the original already satisfies the request."""
    try:
        return wanted.for_type(file.content_type) is None
    except CannotConvert:
        return False


def refusal(error: str) -> ValidationFailed:
    return ValidationFailed.of("format", error, "CANNOT_CONVERT")


_TAKE = """
INSERT INTO files_convertedfile AS c (user_id, source_key, parameters, key, content_type, size, sha256, error,
    token, taken_until)
VALUES (%(user)s, %(source)s, %(parameters)s, '', '', 0, '', '', %(token)s,
    statement_timestamp() + make_interval(secs => %(seconds)s))
ON CONFLICT (source_key, parameters) DO UPDATE SET token = excluded.token, error = '',
    taken_until = excluded.taken_until, created_at = statement_timestamp()
WHERE c.key = '' AND coalesce(c.taken_until < statement_timestamp(), true)
    -- A failed conversion is retried after an hour.
    AND (c.error = '' OR c.created_at < statement_timestamp() - interval '1 hour')
"""


def _take(file: File, wanted: ConversionOptions) -> UUID | None:
    """A token to convert it; None: another process does, or it exists, or it cannot be converted."""
    token = uuid4()
    given = {
        "user": file.user_id,
        "source": file.key,
        "parameters": wanted.parameters,
        "token": token,
        "seconds": settings.CONVERSION_SECONDS * 3,
    }
    return token if rows.execute(_TAKE, given) else None


def _make_and_record(file: File, wanted: ConversionOptions, token: UUID) -> ConvertedFile:
    mine = ConvertedFile.objects.filter(source_key=file.key, parameters=wanted.parameters, token=token)
    connections.release()
    try:
        made = make(file, wanted)
    except CannotConvert as exc:
        mine.update(error=str(exc), token=None, taken_until=None)
        raise refusal(str(exc)) from exc
    except BaseException:
        mine.delete()  # the next request tries again
        raise
    with transaction.atomic():
        storing.lock([file])  # a concurrent deletion sees it, or we see that the file is gone
        there = File.objects.filter(key=file.key).exists()
        if there and mine.update(**_values(made), token=None, taken_until=None):
            _drop_oldest(file.key)
            return ConvertedFile.objects.get(source_key=file.key, parameters=wanted.parameters)
        mine.delete()
    drop(made)
    raise NotFound("The file was deleted meanwhile")


OF_BYTES = ("key", "content_type", "size", "sha256", "width", "height", "duration_seconds")


def _values(made: ConvertedFile) -> dict[str, object]:
    return {name: getattr(made, name) for name in OF_BYTES}


def _drop_oldest(source_key: str) -> None:
    """Prevents filling the storage with conversions of one file in every quality."""
    known = ConvertedFile.objects.filter(source_key=source_key, outputs=None).exclude(key="")
    going = list(known.order_by("-created_at")[MAX_CONVERTED:])
    ConvertedFile.objects.filter(id__in=[each.id for each in going]).delete()
    transaction.on_commit(lambda: storing.discard(each.key for each in going))


# -- outputs --------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Pair:
    """A file whose row is about to be saved, and its conversion."""

    file: File
    made: ConvertedFile


def make(file: File, wanted: ConversionOptions, *, alive: Callable[[], bool] | None = None) -> ConvertedFile:
    """Convert the stored bytes and store the result; its row is not saved. No transaction may be open.

    Raises CannotConvert, StorageUnavailable and BytesMissing, and sandbox.Abandoned where `alive` says so.
    """
    doing = wanted.for_type(file.content_type) or ConversionOptions(strip=wanted.strip)
    with Incoming() as source, Incoming() as target:
        storing.read_into(source, file.key)
        about = sandbox.convert(source.path, target.path, doing, file.content_type, alive=alive)
        target.adopt()
        name = uuid4().hex
        made = ConvertedFile(
            user_id=file.user_id, source_key=file.key, parameters=wanted.parameters,
            key=f"{storing.CONVERTED}/{name[:2]}/{name}", content_type=about.content_type,
            size=target.size, sha256=target.sha256, width=about.width, height=about.height,
            duration_seconds=about.duration_seconds,
        )  # fmt: skip
        try:
            backend.put(made.key, target.path, content_type=made.content_type)
        except BaseException:
            drop(made)
            raise
    return made


def keep(pairs: list[Pair]) -> dict[str, ConvertedFile]:
    """Save the rows of what was made, after those of the files and in their transaction; by the new key.

    Where the same was made of the same bytes before, that one is used, and the new one goes.
    """
    found: dict[str, ConvertedFile] = {}
    for pair in pairs:
        new = pair.made
        new.source_key = pair.file.key  # it may share the bytes of another by now
        values = _values(new) | {"user_id": new.user_id}
        kept, is_new = ConvertedFile.objects.get_or_create(
            source_key=new.source_key, parameters=new.parameters, defaults=values
        )
        if not is_new and not kept.key:  # being converted for a download, or failed before
            ConvertedFile.objects.filter(id=kept.id, key="").update(
                **values, error="", token=None, taken_until=None
            )
            kept.refresh_from_db()
        if kept.key != new.key:
            transaction.on_commit(partial(_give_up, new, kept=kept))
        found[new.key] = kept
    return found


def _give_up(new: ConvertedFile, *, kept: ConvertedFile) -> None:
    if new.sha256 == kept.sha256:
        storing.give_up(new.key, shared=kept)
    else:  # another version of the encoder made it
        drop(new)


def drop(made: ConvertedFile) -> None:
    """Delete the bytes of a conversion whose row was never saved."""
    storing.discard([made.key])


def filename_of(file: File, content_type: str) -> str:
    """The original's name with the new extension."""
    extension = types.extension_of(content_type, filename=file.filename)
    return f"{PurePosixPath(file.filename).stem}{extension}" if extension else file.filename
