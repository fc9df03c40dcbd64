"""Videos and sounds: their size as a viewer shows it, their duration, and a frame to show them by.

FFmpeg reads them through PyAV. The format is given by what the content was found to be, so that no file is
taken for a playlist that names others, and bytes come from an open file, so that it opens none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

FORMATS = {
    "video/mp4": "mp4", "video/x-m4v": "mp4", "video/quicktime": "mov", "video/webm": "matroska",
    "video/x-matroska": "matroska", "video/x-msvideo": "avi",
    "audio/mp4": "mp4", "audio/mpeg": "mp3", "audio/x-wav": "wav", "audio/wav": "wav", "audio/ogg": "ogg",
    "audio/x-flac": "flac", "audio/flac": "flac", "audio/aac": "aac",
}  # fmt: skip
DECODED_AT_MOST = 24_000_000  # pixels of a frame
PACKETS = 500  # read in search of the first frame


@dataclass(frozen=True)
class About:
    """As shown; `duration` in seconds, None where the file does not say."""

    width: int | None
    height: int | None
    duration: float | None


def about(path: Path, content_type: str) -> About | None:
    """None where it is nothing that can be read."""
    with _opened(path, content_type) as container:
        if container is None:
            return None
        video = next(iter(container.streams.video), None)
        duration = round(container.duration / 1_000_000, 3) if container.duration else None
        if video is None or not video.width:
            return About(None, None, duration)
        width, height = _shown(video.width, video.height, video.sample_aspect_ratio)
        if _first_rotation(container, video) % 180:
            width, height = height, width
        return About(width, height, duration)


def frame(path: Path, content_type: str) -> Image.Image | None:
    """The first frame, as it is shown; None where there is none that can be decoded."""
    with _opened(path, content_type) as container:
        video = next(iter(container.streams.video), None) if container else None
        if container is None or video is None or video.width * video.height > DECODED_AT_MOST:
            return None
        first = _first_frame(container, video)
        if first is None:
            return None
        picture: Image.Image = first.to_image()
        shown = _shown(first.width, first.height, video.sample_aspect_ratio)
        if shown != picture.size:
            picture = picture.resize(shown)
        return picture.rotate(first.rotation, expand=True) if first.rotation else picture


@contextmanager
def _opened(path: Path, content_type: str) -> Iterator[Any]:
    """The container; None where it cannot be read. What reading raises later ends the block as well."""
    if content_type not in FORMATS:
        yield None
        return
    import av

    yielded = False
    try:
        with path.open("rb") as stream, av.open(stream, format=FORMATS[content_type]) as container:
            yielded = True
            yield container
    except (av.FFmpegError, ValueError, OverflowError, MemoryError, EOFError):
        if not yielded:
            yield None


def _first_frame(container: Any, video: Any) -> Any:
    for number, packet in enumerate(container.demux(video)):
        for decoded in packet.decode():
            return decoded
        if number > PACKETS:
            break
    return None


def _first_rotation(container: Any, video: Any) -> int:
    """Degrees. It stands beside the frames, so one is decoded."""
    if video.width * video.height > DECODED_AT_MOST:
        return 0
    first = _first_frame(container, video)
    return int(first.rotation) if first is not None else 0


def _shown(width: int, height: int, aspect: Any) -> tuple[int, int]:
    """With pixels that are not square made so."""
    if not aspect or aspect == 1:
        return width, height
    return max(1, round(width * float(aspect))), height
