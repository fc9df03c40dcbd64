"""Pictures with Pillow: upright, transparency on white where there is none, animations kept as such."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps, ImageSequence, PngImagePlugin

from . import pictures
from .conversion_errors import CannotConvert

ANIMATIONS = ("PNG", "WEBP", "GIF", "AVIF")  # files of these may be animated
ANIMATED = ("png", "webp", "avif")  # target formats of an animation
PIXELS = pictures.MAX_CONVERTED_PIXELS
ANIMATED_PIXELS = 300_000_000  # of all frames together, at the requested size
FRAME_MS = 100  # frame duration if the animation has none
MAX_JPEG_EXIF = 65_000  # bytes; the limit of a JPEG segment
# EXIF tags in which ComfyUI writes `prompt:{…}` and `workflow:{…}` for formats without text chunks.
PROMPT_TAG, NEXT_TAG, LAST_TAG = 0x0110, 0x010F, 0x0106
XMP = "XML:com.adobe.xmp"  # the text chunk of PNG


@dataclass(frozen=True)
class Frame:
    picture: Image.Image
    milliseconds: float


def convert(
    source: Path,
    target: Path,
    *,
    to: str,
    quality: int,
    max_size: int | None,
    strip: bool,
    channel: str | None = None,
) -> None:
    """Raises CannotConvert. With a `channel`, an animation becomes its first frame."""
    try:
        with pictures.opened(source) as picture:
            _check_size(picture)
            about = {} if strip else _metadata(picture, to)
            if is_animated(picture) and to in ANIMATED and channel is None:
                _save_animation(picture, target, to, quality, max_size, about)
            else:
                _save_still(picture, target, to, quality, max_size, about, channel)
    except MemoryError as exc:
        raise CannotConvert("The file is too large to be converted") from exc
    except pictures.BROKEN as exc:
        raise CannotConvert("The file is not a readable picture") from exc


def is_rotated(source: Path) -> bool:
    """Whether EXIF rotates or mirrors it, so that it would look different without EXIF."""
    try:
        with pictures.opened(source) as picture:
            return bool(picture.getexif().get(pictures.ORIENTATION, 1) != 1)
    except pictures.BROKEN:
        return False


def is_animated(picture: Image.Image) -> bool:
    return picture.format in ANIMATIONS and getattr(picture, "n_frames", 1) > 1


def frames(picture: Image.Image, *, max_size: int | None) -> list[Frame]:
    """All frames in RGBA, at most `max_size` large. CannotConvert if there are too many."""
    scale = min(1.0, (max_size or max(picture.size)) / max(picture.size))
    count: int = getattr(picture, "n_frames", 1)
    if picture.width * picture.height * scale * scale * count > ANIMATED_PIXELS:
        raise CannotConvert("The animation is too long to be converted at this size")
    found = []
    for each in ImageSequence.Iterator(picture):
        frame = each.convert("RGBA")
        if max_size:
            frame.thumbnail((max_size, max_size))
        found.append(Frame(frame, float(each.info.get("duration") or FRAME_MS)))
    return found


def on_white(picture: Image.Image) -> Image.Image:
    """As RGB, on white."""
    rgba = picture.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


def _check_size(picture: Image.Image) -> None:
    if picture.width * picture.height > PIXELS:
        raise CannotConvert(f"The picture has more than {PIXELS // 1_000_000} million pixels")


def _save_still(
    picture: Image.Image,
    target: Path,
    to: str,
    quality: int,
    max_size: int | None,
    about: dict[str, Any],
    channel: str | None,
) -> None:
    profile = picture.info.get("icc_profile")
    if max_size and to == "jpeg":
        picture.draft("RGB", (max_size, max_size))  # JPEG only: decoded at a smaller scale
    still: Image.Image = ImageOps.exif_transpose(picture)
    still = _in_mode(_of_channel(still, channel), to)
    if max_size and max(still.size) > max_size:
        still.thumbnail((max_size, max_size))
    still.info.clear()
    options = _options(to, quality) | about
    if profile and _fits(profile, still.mode):
        options["icc_profile"] = profile
    still.save(target, to.upper(), **options)


def _save_animation(
    picture: Image.Image,
    target: Path,
    to: str,
    quality: int,
    max_size: int | None,
    about: dict[str, Any],
) -> None:
    profile, loop = picture.info.get("icc_profile"), picture.info.get("loop", 1)
    found = frames(picture, max_size=max_size)
    opaque = all(frame.picture.getchannel("A").getextrema() == (255, 255) for frame in found)
    shown = [frame.picture.convert("RGB") if opaque else frame.picture for frame in found]
    options = _options(to, quality) | about
    if profile and _fits(profile, "RGB"):
        options["icc_profile"] = profile
    if to != "avif":
        options["loop"] = loop
    durations = [round(frame.milliseconds) for frame in found]
    shown[0].save(target, to.upper(), save_all=True, append_images=shown[1:], duration=durations, **options)


def _options(to: str, quality: int) -> dict[str, Any]:
    if to == "png":
        return {"compress_level": 6}
    if to == "jpeg":
        return {"quality": quality, "optimize": True, "progressive": True}
    if to == "webp":
        return {"quality": quality, "method": 4}
    return {"quality": quality, "speed": 8, "max_threads": 2}


def _of_channel(picture: Image.Image, channel: str | None) -> Image.Image:
    """The same pixels that ComfyUI shows: colours are not blended with a background, and only RGBA counts as
    transparent.
    """
    if channel == "rgb":
        return pictures.in_eight_bits(picture).convert("RGB")
    if channel != "a":
        return picture
    alpha = picture.getchannel("A") if picture.mode == "RGBA" else Image.new("L", picture.size, 255)
    black = Image.new("RGBA", picture.size)
    black.putalpha(alpha)
    return black


def _in_mode(
    picture: Image.Image,
    to: str,
) -> Image.Image:
    """In a mode that the format supports. PNG keeps 16 bits of gray; all others have eight."""
    if to == "png" and picture.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        return picture.copy() if picture.mode != "P" else picture.convert(_full_mode(picture))
    picture = pictures.in_eight_bits(picture)
    mode = _full_mode(picture)
    if to == "jpeg":
        return on_white(picture) if mode == "RGBA" else picture.convert("L" if picture.mode == "L" else "RGB")
    return picture.convert(mode)


def _full_mode(picture: Image.Image) -> str:
    bands = picture.getbands()
    return "RGBA" if "A" in bands or "a" in bands or "transparency" in picture.info else "RGB"


def _fits(profile: bytes, mode: str) -> bool:
    """Whether the colour profile is one for pictures of this mode: a conversion may have changed that."""
    space = {"RGB": b"RGB ", "RGBA": b"RGB ", "P": b"RGB ", "L": b"GRAY", "LA": b"GRAY", "I;16": b"GRAY"}
    return profile[16:20] == space.get(mode)


# -- ComfyUI's metadata --------------------------------------------------------------------------------
def texts_of(picture: Image.Image) -> dict[str, str]:
    """The prompt, the workflow, and other texts by name."""
    picture.load()  # PNG may have texts after the picture
    found = {str(name): str(text) for name, text in getattr(picture, "text", {}).items() if name != XMP}
    return found | _texts_in(picture.getexif())


def _metadata(
    picture: Image.Image,
    to: str,
) -> dict[str, Any]:
    """Texts and EXIF as options of `save`, without the orientation, which is applied."""
    found = texts_of(picture)
    exif = Image.Exif()  # a copy: the picture is rotated by its own
    exif.load(picture.getexif().tobytes())
    exif.pop(pictures.ORIENTATION, None)
    if to == "png":
        texts = PngImagePlugin.PngInfo()
        for name, text in found.items():
            texts.add_text(name, text)
        return {"pnginfo": texts, **_as_option(_without_texts(exif))}
    return _as_option(_with_texts(exif, found), at_most=MAX_JPEG_EXIF if to == "jpeg" else None)


def _texts_in(exif: Image.Exif) -> dict[str, str]:
    """Texts that ComfyUI wrote as `name:text`."""
    found = {}
    for text in exif.values():
        name, colon, rest = text.partition(":") if isinstance(text, str) else ("", "", "")
        if colon and name.lower() in ("prompt", "workflow"):
            found[name.lower()] = rest
    return found


def _without_texts(exif: Image.Exif) -> Image.Exif:
    for tag, text in list(exif.items()):
        if isinstance(text, str) and text.lower().startswith(("prompt:", "workflow:")):
            del exif[tag]
    return exif


def _with_texts(exif: Image.Exif, found: dict[str, str]) -> Image.Exif:
    exif = _without_texts(exif)
    if "prompt" in found:
        exif[PROMPT_TAG] = f"prompt:{found['prompt']}"
    tag = NEXT_TAG
    for name, text in found.items():
        if name != "prompt" and tag > LAST_TAG:
            exif[tag] = f"{name}:{text}"
            tag -= 1
    return exif


def _as_option(exif: Image.Exif, *, at_most: int | None = None) -> dict[str, Any]:
    """Drops the longest texts if there is no room for all."""
    while len(exif):
        content = exif.tobytes()
        if at_most is None or len(content) <= at_most:
            return {"exif": content}
        del exif[max(exif, key=lambda tag: len(str(exif[tag])))]
    return {}
