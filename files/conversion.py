"""Converting files: path in, path out, and nothing else. `sandbox` runs it in a process with limits.

`ConversionOptions` describes a conversion; the parts are `picture_conversion`, `video_conversion` and
`metadata`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import formats, metadata, types
from .conversion_errors import CannotConvert

PICTURES, VIDEOS = (
    {
        each.request_name: each.content_types[0]
        for each in formats.FORMATS
        if each.group == group and each.request_name
    }
    for group in (formats.Group.IMAGES, formats.Group.VIDEOS)
)
FORMATS = {**PICTURES, **VIDEOS}
FORMAT_OF = {type_: each.request_name for type_, each in formats.BY_TYPE.items() if each.request_name}
SMALLEST, LARGEST = 16, 16384  # pixels of `max_size`
QUALITY = 80  # unless one is asked for


@dataclass(frozen=True)
class ConversionOptions:
    """A requested conversion. `max_size`: pixels of the longer side, never enlarged. `strip`: no metadata.
    `channel`, of pictures: `rgb` without transparency, `a` with nothing but it (black).
    """

    format: str | None = None
    quality: int | None = None
    max_size: int | None = None
    strip: bool = False
    channel: str | None = None

    def __bool__(self) -> bool:
        return self != ConversionOptions()

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> ConversionOptions:
        """From validated request fields; combinations without effect are dropped."""
        lossless = given.get("format") == "png"
        return cls(
            format=given.get("format"),
            quality=None if lossless else given.get("quality"),
            max_size=given.get("max_size"),
            strip=given.get("metadata") == "strip",
        )

    @property
    def parameters(self) -> str:
        """A canonical string, such as `webp-q80-m1024-strip`."""
        parts = [
            self.format or "same",
            f"q{self.quality}" if self.quality else "",
            f"m{self.max_size}" if self.max_size else "",
            f"c{self.channel}" if self.channel else "",
            "strip" if self.strip else "",
        ]
        return "-".join(part for part in parts if part)

    @classmethod
    def parse(cls, parameters: str) -> ConversionOptions:
        """The inverse of `parameters`."""
        name, *parts = parameters.split("-")
        numbers = {part[0]: int(part[1:]) for part in parts if part[1:].isdigit()}
        return cls(
            format=None if name == "same" else name,
            quality=numbers.get("q"),
            max_size=numbers.get("m"),
            strip="strip" in parts,
            channel=next((part[1:] for part in parts if part in ("crgb", "ca")), None),
        )

    @property
    def query(self) -> dict[str, Any]:
        """The query parameters of a download that requests it."""
        given = {"format": self.format, "quality": self.quality, "max_size": self.max_size}
        given["metadata"] = "strip" if self.strip else None
        return {name: value for name, value in given.items() if value is not None}

    def for_type(self, content_type: str) -> ConversionOptions | None:
        """What has to be done to a file of this type; None: nothing.

        Raises CannotConvert where the format is one for another kind of file.
        """
        kind = content_type.partition("/")[0]
        if self.format and kind not in _TAKES[self.format]:
            raise CannotConvert(f"{_named(content_type)} cannot become {self.format}")
        changes = self.format is not None and FORMAT_OF.get(content_type) != self.format
        if kind in ("image", "video"):
            asked = self.quality or self.max_size or self.strip or self.channel
            return self if changes or asked else None
        return ConversionOptions(strip=True) if self.strip and may_have_metadata(content_type) else None


_TAKES = {**dict.fromkeys(PICTURES, ("image",)), **dict.fromkeys(VIDEOS, ("image", "video"))}


def may_have_metadata(content_type: str) -> bool:
    """Whether such a file may carry metadata that `strip` removes; plain text has none, for example."""
    return content_type.startswith(types.MEDIA) or content_type == types.UNKNOWN


def _named(content_type: str) -> str:
    kind = content_type.partition("/")[0]
    return {"image": "A picture", "video": "A video", "audio": "A sound"}.get(
        kind, f"A file of {content_type}"
    )


def convert(source: Path, target: Path, wanted: ConversionOptions, content_type: str) -> str:
    """Write the converted file to `target` and return its content type.

    Raises CannotConvert with a sentence for users. Memory and time are limited by the caller. `wanted` comes
    from `ConversionOptions.for_type`.
    """
    from . import (
        picture_conversion,
        video_conversion,
    )  # imported here: only the sandbox needs these large libraries

    if wanted == ConversionOptions(strip=True):
        return _stripped(source, target, content_type)
    kind = content_type.partition("/")[0]
    name = wanted.format or FORMAT_OF.get(content_type)
    if kind == "image" and name not in VIDEOS:
        name = name or "png"
        picture_conversion.convert(
            source, target, to=name, quality=wanted.quality or QUALITY,
            max_size=wanted.max_size, strip=wanted.strip, channel=wanted.channel,
        )  # fmt: skip
        return PICTURES[name]
    name = name or "mp4"
    convert_video = video_conversion.of_animation if kind == "image" else video_conversion.of_video
    convert_video(
        source, target, content_type=content_type, to=name, quality=wanted.quality or QUALITY,
        max_size=wanted.max_size, strip=wanted.strip,
    )  # fmt: skip
    return VIDEOS[name]


def _stripped(source: Path, target: Path, content_type: str) -> str:
    """Without decoding where that is possible: nothing but the metadata is lost."""
    from . import picture_conversion, video_conversion

    if content_type in formats.MUXERS:
        video_conversion.strip(source, target, content_type=content_type)
        return content_type
    try:
        if not picture_conversion.is_rotated(source) and metadata.strip(source, target, content_type):
            return content_type
    except metadata.Malformed as exc:
        raise CannotConvert(f"The file is damaged: {exc}") from exc
    if not content_type.startswith("image/"):
        return _copied(source, target, content_type)
    name = FORMAT_OF.get(content_type, "png")
    picture_conversion.convert(source, target, to=name, quality=95, max_size=None, strip=True)
    return PICTURES[name]


def _copied(source: Path, target: Path, content_type: str) -> str:
    """No metadata is known for this type."""
    with source.open("rb") as stream, target.open("wb") as out:
        while piece := stream.read(metadata.CHUNK_BYTES):
            out.write(piece)
    return content_type
