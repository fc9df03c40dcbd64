"""What kind of file an input takes, whichever way the file comes: by id, by address or as `data:`."""

from __future__ import annotations

from collections.abc import Iterable

from files import types

from .node_info import Classes

# ComfyUI's marks for its own editor, and the beginnings of the types that such an input takes.
WANTED = {
    "image_upload": ("image/",),
    "animated_image_upload": ("image/",),
    "audio_upload": ("audio/", "video/"),
    "video_upload": ("video/", "image/"),
}
# Pictures that ComfyUI's nodes can not open, and that are not converted here: vectors, raw files of cameras.
UNREADABLE = (
    "image/svg+xml", "image/jxl", "image/x-exr", "image/x-xcf", "image/vnd.djvu", "image/wmf", "image/emf",
    "image/x-adobe-dng", "image/x-canon", "image/x-nikon", "image/x-sony", "image/x-olympus",
    "image/x-panasonic", "image/x-fuji", "image/x-raw",
)  # fmt: skip
WORDS = {"image/": "picture", "audio/": "audio file", "video/": "video"}
USUAL = {"LoadImage": ("image/",), "LoadImageMask": ("image/",)}  # for as long as no worker has said anything


def wanted(class_type: str, name: str, tables: Iterable[Classes]) -> tuple[str, ...]:
    """The beginnings of types that an input takes; empty where anything may be right."""
    for classes in tables:
        about = classes[class_type].inputs.get(name) if class_type in classes else None
        for mark, beginnings in WANTED.items():
            if about is not None and about.limits.get(mark) is True:
                return beginnings
    return USUAL.get(class_type, ())


def refusal(content_type: str, beginnings: tuple[str, ...]) -> str | None:
    """Why a file of this type is not taken; None where it is."""
    readable = not content_type.startswith(UNREADABLE)
    if types.is_media(content_type) and content_type.startswith(beginnings) and readable:
        return None
    words = " or ".join(WORDS[each] for each in beginnings) if beginnings != types.MEDIA else "media file"
    hint = "; convert it to PNG" if content_type.startswith("image/") else ""
    return f"a {words} is needed here, not {content_type}{hint}"
