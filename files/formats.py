"""Every format that files and outputs may have, one row each.

To add a kind of output, add a row: `types` detects content by it (a row without content types is known by
name only), `videos` opens by it, and outputs are grouped and displayed by it. What a few formats can do
besides is listed where it is done: sizes are measured of `types.MEASURED`, workflows removed by
`metadata.STRIPPERS`, inputs refused by `workflows.graph.media_kinds`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Group(StrEnum):
    """The key under which an execution's result lists an output."""

    IMAGES = "images"
    VIDEOS = "videos"
    AUDIO = "audio"
    MODELS_3D = "3d"
    TEXTS = "texts"
    FILES = "files"  # everything else


@dataclass(frozen=True)
class Format:
    """`content_types` as detection names them; none: it is known by its name only.

    `extensions` with their dots, the usual one first. `demuxer` and `muxer`: FFmpeg's names, to read size and
    duration, and to write the container again without metadata. `request_name`: how a user asks for outputs
    to be converted to it; the encoders are in `picture_conversion` and `video_conversion`.
    `magic`: its first bytes, where the library that detects types does not know it. `textual`: plain text,
    of which only the name says what it is. `converted`: ComfyUI does not read it, and gets a PNG instead.
    """

    group: Group
    extensions: tuple[str, ...]
    content_types: tuple[str, ...] = ()
    inline: bool = False  # browsers may display it; everything else is a download
    demuxer: str | None = None
    muxer: str | None = None
    request_name: str | None = None
    magic: bytes | None = None
    textual: bool = False
    converted: bool = False


_IMAGES, _VIDEOS, _AUDIO, _3D, _FILES = (
    Group.IMAGES, Group.VIDEOS, Group.AUDIO, Group.MODELS_3D, Group.FILES,
)  # fmt: skip

FORMATS = (
    Format(_IMAGES, (".png",), ("image/png", "image/apng"), inline=True, request_name="png"),
    Format(_IMAGES, (".jpg", ".jpeg"), ("image/jpeg",), inline=True, request_name="jpeg"),
    Format(_IMAGES, (".webp",), ("image/webp",), inline=True, request_name="webp"),
    Format(_IMAGES, (".gif",), ("image/gif",), inline=True),
    Format(_IMAGES, (".bmp",), ("image/bmp",), inline=True),
    Format(_IMAGES, (".tiff", ".tif"), ("image/tiff",)),
    Format(_IMAGES, (".avif",), ("image/avif",), inline=True, request_name="avif"),
    Format(_IMAGES, (".exr",), ("image/x-exr",), magic=b"\x76\x2f\x31\x01"),
    Format(_IMAGES, (".jxl",), ("image/jxl",), magic=b"\x00\x00\x00\x0cJXL \r\n\x87\n"),
    Format(_IMAGES, (".heic",), ("image/heic",), converted=True),
    Format(_IMAGES, (".heif",), ("image/heif",), converted=True),
    Format(_VIDEOS, (".mp4",), ("video/mp4",), inline=True, demuxer="mp4", muxer="mp4", request_name="mp4"),
    Format(_VIDEOS, (".m4v",), ("video/x-m4v",), inline=True, demuxer="mp4", muxer="mp4"),
    Format(_VIDEOS, (".mov",), ("video/quicktime",), inline=True, demuxer="mov", muxer="mov"),
    Format(
        _VIDEOS,
        (".webm",),
        ("video/webm",),
        inline=True,
        demuxer="matroska",
        muxer="webm",
        request_name="webm",
    ),
    Format(_VIDEOS, (".mkv",), ("video/x-matroska",), inline=True, demuxer="matroska", muxer="matroska"),
    Format(_VIDEOS, (".avi",), ("video/x-msvideo",), demuxer="avi", muxer="avi"),
    Format(_AUDIO, (".mp3",), ("audio/mpeg",), inline=True, demuxer="mp3", muxer="mp3"),
    Format(_AUDIO, (".wav",), ("audio/x-wav", "audio/wav"), inline=True, demuxer="wav", muxer="wav"),
    Format(_AUDIO, (".ogg", ".opus"), ("audio/ogg",), inline=True, demuxer="ogg", muxer="ogg"),
    Format(_AUDIO, (".flac",), ("audio/x-flac", "audio/flac"), inline=True, demuxer="flac", muxer="flac"),
    Format(_AUDIO, (".m4a",), ("audio/mp4",), inline=True, demuxer="mp4", muxer="mp4"),
    Format(_AUDIO, (".aac",), ("audio/aac",), inline=True, demuxer="aac", muxer="adts"),
    Format(_3D, (".glb",), ("model/gltf-binary",), magic=b"glTF"),
    Format(_3D, (".gltf", ".obj", ".ply", ".stl", ".usdz", ".fbx", ".splat", ".spz", ".ksplat")),
    Format(_FILES, (), ("text/plain",), inline=True),
    Format(_FILES, (".json",), ("application/json",), inline=True, textual=True),
    Format(_FILES, (".csv",), ("text/csv",), textual=True),
    Format(_FILES, (".md",), ("text/markdown",), textual=True),
)

BY_TYPE = {content_type: each for each in FORMATS for content_type in each.content_types}
BY_EXTENSION = {extension: each for each in FORMATS for extension in each.extensions}
BY_MAGIC = {each.magic: each for each in FORMATS if each.magic}
DEMUXERS = {content_type: each.demuxer for content_type, each in BY_TYPE.items() if each.demuxer}
MUXERS = {content_type: each.muxer for content_type, each in BY_TYPE.items() if each.muxer}
