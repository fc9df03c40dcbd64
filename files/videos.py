"""Video and sound: displayed size, duration, and a preview frame.

FFmpeg reads them through PyAV. The format is forced to the detected type, so that no file is opened as a
playlist that references others, and bytes come from an open file, so that it opens none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from .formats import DEMUXERS

MAX_DECODED_PIXELS = 24_000_000  # pixels of a frame
PACKETS = 500  # read in search of the first frame


@dataclass(frozen=True)
class About:
    """As displayed; `duration` in seconds, None if unknown."""

    width: int | None
    height: int | None
    duration: float | None


def about(path: Path, content_type: str) -> About | None:
    """None if it is unreadable."""
    with _opened(path, content_type) as container:
        if container is None:
            return None
        video = next(iter(container.streams.video), None)
        duration = round(container.duration / 1_000_000, 3) if container.duration else None
        if video is None or not video.width:
            return About(None, None, duration)
        width, height = shown(video.width, video.height, video.sample_aspect_ratio)
        if _first_rotation(container, video) % 180:
            width, height = height, width
        return About(width, height, duration)


def frame(path: Path, content_type: str) -> Image.Image | None:
    """The first frame, as displayed; None if none can be decoded."""
    with _opened(path, content_type) as container:
        video = next(iter(container.streams.video), None) if container else None
        if container is None or video is None or video.width * video.height > MAX_DECODED_PIXELS:
            return None
        first = _first_frame(container, video)
        if first is None:
            return None
        picture: Image.Image = first.to_image()
        displayed = shown(first.width, first.height, video.sample_aspect_ratio)
        if displayed != picture.size:
            picture = picture.resize(displayed)
        return picture.rotate(first.rotation, expand=True) if first.rotation else picture


@contextmanager
def _opened(path: Path, content_type: str) -> Iterator[Any]:
    """The container; None if it is unreadable. Read errors also end the block."""
    if content_type not in DEMUXERS:
        yield None
        return
    import av

    yielded = False
    try:
        with path.open("rb") as stream, av.open(stream, format=DEMUXERS[content_type]) as container:
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
    """Degrees. It is stored with the frames, so one is decoded."""
    if video.width * video.height > MAX_DECODED_PIXELS:
        return 0
    first = _first_frame(container, video)
    return int(first.rotation) if first is not None else 0


def shown(width: int, height: int, aspect: Any) -> tuple[int, int]:
    """Scaled to square pixels."""
    if not aspect or aspect == 1:
        return width, height
    return max(1, round(width * float(aspect))), height
