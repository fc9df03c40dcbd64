"""Stores files of a form, so that the app's inputs can refer to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.core.files.uploadedfile import UploadedFile

from accounts.models import User
from comfyserve.api.errors import ValidationFailed
from files import storing, types
from files.incoming import Incoming

if TYPE_CHECKING:
    Upload = UploadedFile[bytes]  # not generic at runtime


def stored(upload: Upload, user: User, field: str, *, kinds: tuple[str, ...] = ("image",)) -> tuple[str, str]:
    """Return (its file_id, which of the `kinds` it is). Raises ValidationFailed if it is none of them."""
    with Incoming() as incoming:
        for piece in upload.chunks():
            incoming.write(piece)
        kind = types.of_content(incoming.head).partition("/")[0]
        if kind not in kinds:
            wanted = {"image": "picture", "video": "video"}
            raise ValidationFailed.of(
                field, f"The file is not a readable {' or '.join(wanted[each] for each in kinds)}"
            )
        return storing.accept(incoming, user=user, filename=upload.name or f"{field}.png").id, kind
