"""Helpers for pictures in tests."""

from __future__ import annotations

from PIL import Image


def pixel(picture: Image.Image, at: tuple[int, int]) -> tuple[int, ...]:
    """The colour there, by channels. For pictures of several channels: Pillow's type allows for others."""
    found = picture.getpixel(at)
    assert isinstance(found, tuple)
    return found
