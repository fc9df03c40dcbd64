"""Small previews of a running execution, a few per second, and only while a client is watching."""

from __future__ import annotations

import base64
import io
import logging
import time
from uuid import UUID

from PIL import Image

from comfyui.events import Preview
from workflows import notify

logger = logging.getLogger(__name__)

EVERY_SECONDS = 0.25
ASK_SECONDS = 1.0  # interval of checks whether a client is watching
SIZE = 256  # pixels of the longer side
QUALITY = 70
MAX_PIXELS = 4096 * 4096
FORMATS = ("JPEG", "PNG", "WEBP")  # formats that decode nothing on open


class Previews:
    """The previews of one run. `show` receives every frame and publishes a few."""

    def __init__(self, execution_id: UUID) -> None:
        self._id = execution_id
        self._sent_at = 0.0
        self._asked_at = 0.0
        self._wanted = False

    def show(self, preview: Preview) -> None:
        now = time.monotonic()
        if now - self._asked_at >= ASK_SECONDS:
            self._asked_at = now
            self._wanted = notify.somebody_wants_previews(self._id)
        if not self._wanted or now - self._sent_at < EVERY_SECONDS:
            return
        self._sent_at = now
        picture = _small(preview.data)
        if picture is not None:
            image = f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"
            notify.announce_preview(self._id, {"node_id": preview.node_id, "image": image})


def _small(data: bytes) -> bytes | None:
    """Re-encode as a JPEG of at most SIZE pixels; None if it is not an image."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                return None
            small = picture.convert("RGB")
            small.thumbnail((SIZE, SIZE))
            out = io.BytesIO()
            small.save(out, "JPEG", quality=QUALITY)
            return out.getvalue()
    except (OSError, ValueError, Image.DecompressionBombError) as exc:
        logger.info("a preview could not be read: %s", exc)
        return None
