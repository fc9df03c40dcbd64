"""Which kinds of media an input accepts, whether the file is given by id, URL or `data:` URL."""

from __future__ import annotations

from collections.abc import Iterable

from files import types

from .node_info import Classes

# ComfyUI's markers for its editor, and the content type prefixes that such inputs accept.
WANTED = {
    "image_upload": ("image/",),
    "animated_image_upload": ("image/",),
    "audio_upload": ("audio/", "video/"),
    "video_upload": ("video/", "image/"),
}
# Images that ComfyUI's nodes cannot open and that are not converted here: vectors, camera raw files.
UNREADABLE = (
    "image/svg+xml", "image/jxl", "image/x-exr", "image/x-xcf", "image/vnd.djvu", "image/wmf", "image/emf",
    "image/x-adobe-dng", "image/x-canon", "image/x-nikon", "image/x-sony", "image/x-olympus",
    "image/x-panasonic", "image/x-fuji", "image/x-raw", "image/vnd.radiance",
)  # fmt: skip
READABLE = "PNG, JPEG, WebP, AVIF, GIF, BMP, TIFF and HEIC"
WORDS = {"image/": "picture", "audio/": "audio file", "video/": "video"}
USUAL = {"LoadImage": ("image/",), "LoadImageMask": ("image/",)}  # until a worker has reported


def wanted(class_type: str, name: str, tables: Iterable[Classes]) -> tuple[str, ...]:
    """The content type prefixes that an input accepts; empty if unknown."""
    for classes in tables:
        about = classes[class_type].inputs.get(name) if class_type in classes else None
        for mark, beginnings in WANTED.items():
            if about is not None and about.limits.get(mark) is True:
                return beginnings
    return USUAL.get(class_type, ())


def refusal(content_type: str, beginnings: tuple[str, ...]) -> str | None:
    """Why a file of this type is rejected; None if it is accepted."""
    readable = not content_type.startswith(UNREADABLE)
    if types.is_media(content_type) and content_type.startswith(beginnings) and readable:
        return None
    words = " or ".join(WORDS[each] for each in beginnings) if beginnings != types.MEDIA else "media file"
    if content_type.startswith("image/"):
        hint = "; convert it to PNG"
    elif content_type == types.UNKNOWN and "image/" in beginnings:
        hint = f", an unknown format; {READABLE} can be read"
    else:
        hint = ""
    return f"a {words} is needed here, not {content_type}{hint}"


def damaged(content_type: str, *, measured: bool) -> str | None:
    """Why a picture whose size could not be read is rejected; None if that means nothing."""
    if measured or content_type not in types.MEASURED:
        return None
    return f"this {content_type} can not be read as a picture: it is damaged, or only begins like one"
