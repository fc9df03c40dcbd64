"""Videos and sound with FFmpeg's libraries through PyAV, and animated pictures that become videos.

Bytes come from an open file whose format is forced to the detected type, as in `videos`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.filter

from . import formats, picture_conversion, pictures, videos
from .conversion_errors import CannotConvert

VIDEO_CODECS = {"mp4": "libx264", "webm": "libvpx-vp9"}
AUDIO_CODECS = {"mp4": "aac", "webm": "libopus"}
MUXERS = {"mp4": "mp4", "webm": "webm"}
OF_CONTAINER = {"major_brand", "minor_version", "compatible_brands", "encoder", "ENCODER"}
TICKS = Fraction(1, 90_000)  # seconds
PIXELS = 36_000_000  # of a frame
THREADS = 2
_FAILURES = (av.FFmpegError, ValueError, OverflowError, EOFError)


def of_video(
    source: Path,
    target: Path,
    *,
    content_type: str,
    to: str,
    quality: int,
    max_size: int | None,
    strip: bool,
) -> None:
    """A video with its first sound track. Raises CannotConvert."""
    with _readable(source, content_type) as given, _made(target, to) as made:
        video = next(iter(given.streams.video), None)
        if video is None or not video.width or video.width * video.height > PIXELS:
            raise CannotConvert("The video has no picture, or one that is too large")
        if not strip:
            made.metadata.update({n: text for n, text in given.metadata.items() if n not in OF_CONTAINER})
        video.thread_type, video.codec_context.thread_count = "AUTO", THREADS
        encoder = _Encoder(made, to=to, quality=quality, rate=video.average_rate)
        audio = next(iter(given.streams.audio), None)
        sound = _Sound(made, to=to) if audio else None
        for packet in given.demux([stream for stream in (video, audio) if stream is not None]):
            for frame in packet.decode():
                if isinstance(frame, av.VideoFrame):
                    encoder.add(frame, stream=video, max_size=max_size)
                elif sound is not None:
                    sound.add(frame, hold=not encoder.begun)
        encoder.finish()
        if sound is not None:
            sound.finish()


def of_animation(
    source: Path,
    target: Path,
    *,
    content_type: str,
    to: str,
    quality: int,
    max_size: int | None,
    strip: bool,
) -> None:
    """An animated WebP, GIF, PNG or AVIF as a video, on white."""
    del content_type
    try:
        with pictures.opened(source) as picture:
            if not picture_conversion.is_animated(picture):
                raise CannotConvert(f"The file is not animated, so it cannot become {to}")
            texts = {} if strip else picture_conversion.texts_of(picture)
            found = picture_conversion.frames(picture, max_size=max_size)
    except MemoryError as exc:
        raise CannotConvert("The file is too large to be converted") from exc
    except pictures.BROKEN as exc:
        raise CannotConvert("The file is not a readable picture") from exc
    with _translated_errors(), _made(target, to) as made:
        made.metadata.update(texts)
        rate = Fraction(1000 * len(found), max(1, round(sum(each.milliseconds for each in found))))
        encoder = _Encoder(made, to=to, quality=quality, rate=rate)
        at = 0.0
        for each in found:
            frame: Any = av.VideoFrame.from_image(picture_conversion.on_white(each.picture))  # type: ignore[no-untyped-call]
            frame.pts, frame.time_base = round(at / 1000 / TICKS), TICKS
            encoder.add(frame)
            at += each.milliseconds
        encoder.finish()


def strip(source: Path, target: Path, *, content_type: str) -> None:
    """The same streams, without the metadata that ComfyUI or a camera wrote."""
    with _readable(source, content_type) as given:
        muxer = formats.MUXERS[content_type]
        options = {"movflags": "+faststart"} if muxer in ("mp4", "mov") else {}
        with av.open(target, "w", format=muxer, options=options) as made:
            streams = {
                stream.index: made.add_stream_from_template(stream)
                for stream in given.streams
                if stream.type in ("video", "audio", "subtitle")
            }
            for stream in streams.values():
                stream.metadata.clear()
            for packet in given.demux([given.streams[index] for index in streams]):
                if packet.dts is None:
                    continue
                packet.stream = streams[packet.stream.index]
                made.mux(packet)


def _made(target: Path, to: str) -> Any:
    """Keeps metadata under names that MP4 does not define, such as ComfyUI's; fast start."""
    options = {"movflags": "use_metadata_tags+faststart"} if to == "mp4" else {}
    return av.open(target, "w", format=MUXERS[to], options=options)


class _Encoder:
    """The video track of the output; its size is that of the first frame."""

    def __init__(self, made: Any, *, to: str, quality: int, rate: Any) -> None:
        self._made, self._to, self._quality, self._rate = made, to, quality, rate
        self._track: Any = None
        self._graph: Any = None
        self._last = -1

    def add(self, frame: Any, *, stream: Any = None, max_size: int | None = None) -> None:
        if stream is not None:
            frame = self._upright(frame, stream, max_size)
        if self._track is None:
            self._track = self._begin(frame.width, frame.height)
        shown = frame.reformat(width=self._track.width, height=self._track.height, format="yuv420p")
        pts = round((frame.time or 0.0) / TICKS)
        shown.pts, shown.time_base = max(pts, self._last + 1), TICKS
        self._last = shown.pts
        self._made.mux(self._track.encode(shown))

    @property
    def begun(self) -> bool:
        return self._track is not None

    def finish(self) -> None:
        if self._track is None:
            raise CannotConvert("The video has no readable frame")
        self._made.mux(self._track.encode(None))

    def _begin(self, width: int, height: int) -> Any:
        quality = self._quality
        options = (
            {"crf": str(round(48 - 0.35 * quality)), "preset": "veryfast"}
            if self._to == "mp4"
            else {
                "crf": str(round(63 - 0.4 * quality)),
                "b": "0",
                "deadline": "good",
                "cpu-used": "5",
                "row-mt": "1",
            }
        )
        track = self._made.add_stream(VIDEO_CODECS[self._to], rate=self._rate or 25, options=options)
        track.width, track.height, track.pix_fmt = max(2, width & ~1), max(2, height & ~1), "yuv420p"
        track.codec_context.time_base = TICKS
        track.codec_context.thread_count = THREADS
        return track

    def _upright(self, frame: Any, stream: Any, max_size: int | None) -> Any:
        """As displayed: rotated, with square pixels, and at most as large as requested."""
        width, height = videos.shown(frame.width, frame.height, stream.sample_aspect_ratio)
        scale = min(1.0, max_size / max(width, height)) if max_size else 1.0
        width, height = max(2, round(width * scale)), max(2, round(height * scale))
        rotation = round(frame.rotation) % 360
        if not rotation and (width, height) == (frame.width, frame.height):
            return frame
        if self._graph is None:
            self._graph = _graph(stream, width, height, rotation)
        self._graph.push(frame)
        return self._graph.pull()


def _graph(stream: Any, width: int, height: int, rotation: int) -> Any:
    turns = {90: ["cclock"], 180: ["clock", "clock"], 270: ["clock"]}.get(rotation, [])
    graph = av.filter.Graph()
    nodes = [graph.add_buffer(template=stream), graph.add("scale", f"{width}:{height}")]
    nodes += [graph.add("transpose", turn) for turn in turns]
    graph.link_nodes(*nodes, graph.add("buffersink")).configure()
    return graph


class _Sound:
    """The sound track of the output."""

    HELD = 2000  # frames before the first video frame; all tracks must be known before anything is written

    def __init__(self, made: Any, *, to: str) -> None:
        self._made = made
        self._track = made.add_stream(AUDIO_CODECS[to], rate=48_000)
        codec = self._track.codec_context
        codec.layout, codec.time_base = "stereo", Fraction(1, 48_000)
        codec.open()  # the frame size is known then
        self._resampler = av.AudioResampler(
            format=codec.format, layout="stereo", rate=48_000, frame_size=codec.frame_size
        )
        self._held: list[Any] = []

    def add(self, frame: Any, *, hold: bool) -> None:
        self._held.append(frame)
        if len(self._held) > self.HELD:
            raise CannotConvert("The picture of the video begins too late")
        if not hold:
            held, self._held = self._held, []
            for each in held:
                self._encode(each)

    def finish(self) -> None:
        for each in [*self._held, None]:
            self._encode(each)
        self._made.mux(self._track.encode(None))

    def _encode(self, frame: Any) -> None:
        for each in self._resampler.resample(frame):
            self._made.mux(self._track.encode(each))


@contextmanager
def _readable(source: Path, content_type: str) -> Iterator[Any]:
    with (
        _translated_errors(),
        source.open("rb") as stream,
        av.open(stream, format=formats.DEMUXERS[content_type]) as container,
    ):
        yield container


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except MemoryError as exc:
        raise CannotConvert("The file is too large to be converted") from exc
    except KeyError as exc:
        raise CannotConvert("Videos of this type cannot be read") from exc
    except _FAILURES as exc:
        raise CannotConvert("The file is damaged, or of a kind that cannot be converted") from exc
