"""The table of formats names each content type and each extension once, and everything reads it."""

from __future__ import annotations

from collections import Counter

import av
import pytest

from files import formats, types
from files.formats import FORMATS, Format


@pytest.mark.parametrize("field", ["content_types", "extensions"])
def test_nothing_is_listed_twice(field: str) -> None:
    counted = Counter(value for each in FORMATS for value in getattr(each, field))
    assert [value for value, count in counted.items() if count > 1] == []


@pytest.mark.parametrize(
    "row", [each for each in FORMATS if each.demuxer], ids=lambda row: row.content_types[0]
)
def test_ffmpeg_reads_and_writes_it(row: Format) -> None:
    assert row.demuxer is not None
    assert av.ContainerFormat(row.demuxer, "r").is_input
    assert row.muxer is not None
    assert av.ContainerFormat(row.muxer, "w").is_output


@pytest.mark.parametrize(
    "row", [each for each in FORMATS if each.magic], ids=lambda row: row.content_types[0]
)
def test_own_signatures_are_detected(row: Format) -> None:
    assert row.magic is not None
    assert types.of_content(row.magic + bytes(100)) == row.content_types[0]


@pytest.mark.parametrize(
    ("filename", "group"),
    [("a.PNG", "images"), ("a.mp4", "videos"), ("a.opus", "audio"), ("a.ply", "3d"), ("a.latent", "files")],
)
def test_outputs_are_grouped_by_extension(filename: str, group: str) -> None:
    assert types.group_of(filename) == group
    assert group in [str(each) for each in formats.Group]
