"""Contact sheets: one image with the first image of each execution of a batch."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from files import backend, thumbnails
from files.errors import BytesMissing
from files.models import File
from workflows.models import Execution
from workflows.presentation import selectors

CELL, MARGIN, CAPTION = 256, 8, 18  # pixels
PAPER, INK, EMPTY = (250, 250, 250), (60, 60, 60), (225, 225, 225)


def made(executions: Sequence[Execution]) -> bytes:
    """A JPEG of at most 10 by 10 executions' thumbnails. Raises StorageUnavailable."""
    columns = max(1, min(10, math.ceil(math.sqrt(len(executions)))))
    lines = max(1, math.ceil(len(executions) / columns))
    size = (columns * (CELL + MARGIN) + MARGIN, lines * (CELL + CAPTION + MARGIN) + MARGIN)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    outputs = selectors.outputs([execution.id for execution in executions])
    for i, execution in enumerate(executions):
        left = MARGIN + (i % columns) * (CELL + MARGIN)
        top = MARGIN + (i // columns) * (CELL + CAPTION + MARGIN)
        file = next((each.file for each in outputs[execution.id] if _is_picture(each.file)), None)
        picture = _thumbnail(file) if file else None
        if picture is None:
            draw.rectangle((left, top, left + CELL - 1, top + CELL - 1), fill=EMPTY)
        else:
            sheet.paste(picture, (left + (CELL - picture.width) // 2, top + (CELL - picture.height) // 2))
        caption = (
            f"{execution.batch_position}" if picture else f"{execution.batch_position} {execution.status}"
        )
        draw.text((left, top + CELL + 2), caption, fill=INK)
    out = io.BytesIO()
    sheet.save(out, "JPEG", quality=85)
    return out.getvalue()


def _is_picture(file: File | None) -> bool:
    return file is not None and file.content_type.startswith("image/")


def _thumbnail(file: File) -> Image.Image | None:
    """None if no thumbnail can be made, or the file's content has been deleted."""
    try:
        key = thumbnails.key_of(file)
        if key is None:
            return None
        reader = backend.read(key)
        try:
            with backend.reading(key):
                content = reader.read(backend.size_of(key))
        finally:
            reader.close()
        with Image.open(io.BytesIO(content)) as picture:
            picture.thumbnail((CELL, CELL))
            return picture.convert("RGB")
    except (BytesMissing, OSError):
        return None
