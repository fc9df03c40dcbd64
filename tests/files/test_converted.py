"""Downloads in another format or size: `GET /files/{id}?format=…`, on disk and on S3."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from io import BytesIO
from typing import Any

import av
import pytest
import requests
from PIL import Image, ImageCms, PngImagePlugin

from tests.pictures import pixel

from .conftest import assert_error, picture, uploaded

# What a conversion makes does not depend on where it is stored. On both storages run TestStorage and one test
# of each kind of file; all others on the disk only.
on_disk = pytest.mark.parametrize("_site", ["disk"], indirect=True)
PROMPT = '{"1": {"class_type": "SecretNode"}}'


def get(person: Any, file_id: str, headers: dict[str, str] | None = None, **query: Any) -> requests.Response:
    return person.session.get(f"{person.url}/files/{file_id}", params=query, headers=headers, timeout=90)


def opened(answer: requests.Response) -> Image.Image:
    assert answer.status_code == 200, answer.text
    return Image.open(BytesIO(answer.content))


def with_texts(size: tuple[int, int] = (60, 40)) -> bytes:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("prompt", PROMPT)
    stream = BytesIO()
    Image.effect_noise(size, 60).convert("RGB").save(stream, "PNG", pnginfo=texts)
    return stream.getvalue()


def animated(kind: str, count: int = 6) -> bytes:
    frames = [Image.new("RGB", (48, 32), (40 * i, 0, 255 - 40 * i)) for i in range(count)]
    stream = BytesIO()
    frames[0].save(stream, kind, save_all=True, append_images=frames[1:], duration=200, loop=0)
    return stream.getvalue()


def film(sound: bool = True) -> bytes:
    stream = BytesIO()
    with av.open(stream, "w", format="mp4", options={"movflags": "use_metadata_tags"}) as made:
        made.metadata["prompt"] = PROMPT
        track = made.add_stream("libx264", rate=10)
        track.width, track.height, track.pix_fmt = 128, 96, "yuv420p"
        noise = made.add_stream("aac", rate=44100) if sound else None
        for i in range(20):
            frame = av.VideoFrame.from_image(Image.new("RGB", (128, 96), (i * 10, 0, 0)))
            made.mux(track.encode(frame))
        for i in range(80 if noise else 0):
            assert noise is not None
            samples = av.AudioFrame(format="fltp", layout="stereo", samples=1024)
            samples.sample_rate, samples.pts = 44100, i * 1024
            for plane in samples.planes:
                plane.update(bytes(plane.buffer_size))
            made.mux(noise.encode(samples))
        made.mux(track.encode(None))
        if noise:
            made.mux(noise.encode(None))
    return stream.getvalue()


def streams_of(content: bytes) -> dict[str, Any]:
    with av.open(BytesIO(content), "r") as container:
        video = container.streams.video[0]
        return {
            "kinds": sorted(stream.type for stream in container.streams),
            "size": (video.width, video.height),
            "seconds": float(Fraction(container.duration or 0, 1_000_000)),
            "texts": {name.lower(): text for name, text in container.metadata.items()},
        }


class TestPictures:
    @pytest.mark.parametrize("name, kind", [("webp", "WEBP"), ("jpeg", "JPEG"), ("avif", "AVIF")])
    def test_the_requested_format_is_returned(self, site, alice, name, kind):
        file_id = uploaded(alice, picture(size=(60, 40)), "blue.png")
        answer = get(alice, file_id, format=name)
        assert answer.headers["Content-Type"] == f"image/{name}"
        assert int(answer.headers["Content-Length"]) == len(answer.content)
        extension = "jpg" if name == "jpeg" else name
        assert f'filename="blue.{extension}"' in answer.headers["Content-Disposition"]
        found = opened(answer)
        assert (found.format, found.size) == (kind, (60, 40))
        assert get(alice, file_id).headers["Content-Type"] == "image/png", "the original stays"

    @on_disk
    def test_quality_and_size_count(self, site, alice):
        file_id = uploaded(alice, with_texts((300, 200)))
        best = get(alice, file_id, format="webp", quality=95)
        least = get(alice, file_id, format="webp", quality=5)
        assert len(least.content) < len(best.content) / 3
        small = opened(get(alice, file_id, format="webp", max_size=90))
        assert small.size == (90, 60)
        assert opened(get(alice, file_id, max_size=90)).format == "PNG", "the format is kept"
        assert opened(get(alice, file_id, format="webp", max_size=5000)).size == (300, 200), "never enlarged"

    def test_ranges_and_etags_are_those_of_what_is_sent(self, site, alice):
        file_id = uploaded(alice, picture(size=(60, 40)))
        whole = get(alice, file_id, format="webp")
        assert whole.headers["ETag"] != get(alice, file_id).headers["ETag"]
        part = get(alice, file_id, {"Range": "bytes=4-9"}, format="webp")
        assert (part.status_code, part.content) == (206, whole.content[4:10])
        known = get(alice, file_id, {"If-None-Match": whole.headers["ETag"]}, format="webp")
        assert known.status_code == 304

    @on_disk
    def test_transparency_becomes_white_in_a_jpeg(self, site, alice):
        stream = BytesIO()
        Image.new("RGBA", (20, 20), (255, 0, 0, 0)).save(stream, "PNG")
        file_id = uploaded(alice, stream.getvalue())
        assert opened(get(alice, file_id, format="jpeg")).getpixel((5, 5)) == (255, 255, 255)
        assert pixel(opened(get(alice, file_id, format="webp")), (5, 5))[3] == 0

    @on_disk
    def test_it_is_upright_and_keeps_its_colour_profile(self, site, alice):
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        exif = Image.Exif()
        exif[0x0112] = 6  # turned by 90 degrees
        stream = BytesIO()
        Image.new("RGB", (40, 20), "red").save(stream, "JPEG", exif=exif, icc_profile=profile)
        file_id = uploaded(alice, stream.getvalue())
        queries: list[dict[str, Any]] = [
            {"format": "png"},
            {"format": "webp", "metadata": "strip"},
            {"metadata": "strip"},
        ]
        for query in queries:
            found = opened(get(alice, file_id, **query))
            assert found.size == (20, 40), query
            assert found.info["icc_profile"] == profile, query
            assert found.getexif().get(0x0112) is None, query

    @on_disk
    def test_sixteen_bits_are_not_cut_off(self, site, alice):
        stream = BytesIO()
        Image.new("I;16", (20, 20), 40_000).save(stream, "PNG")
        file_id = uploaded(alice, stream.getvalue())
        grey: Any = opened(get(alice, file_id, format="jpeg")).getpixel((5, 5))
        assert abs(grey - 40_000 // 256) <= 1
        kept = opened(get(alice, file_id, max_size=16))
        assert (kept.mode, kept.getpixel((5, 5))) == ("I;16", 40_000)

    @on_disk
    @pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
    @pytest.mark.parametrize("name", ["webp", "avif", "png"])
    def test_animations_stay_animations(self, site, alice, kind, name):
        file_id = uploaded(alice, animated(kind))
        found = opened(get(alice, file_id, format=name, max_size=24))
        assert (getattr(found, "n_frames", 1), found.size) == (6, (24, 16))


class TestMetadata:
    @on_disk
    def test_it_is_kept_unless_it_is_to_be_stripped(self, site, alice):
        file_id = uploaded(alice, with_texts())
        assert PROMPT.encode() in get(alice, file_id, format="webp").content
        assert PROMPT.encode() in get(alice, file_id, format="jpeg").content
        stripped = get(alice, file_id, format="webp", metadata="strip")
        assert b"SecretNode" not in stripped.content

    @on_disk
    def test_a_picture_that_is_only_stripped_is_not_encoded_again(self, site, alice):
        content = with_texts()
        file_id = uploaded(alice, content)
        stripped = get(alice, file_id, metadata="strip")
        assert stripped.headers["Content-Type"] == "image/png"
        assert b"SecretNode" not in stripped.content
        assert opened(stripped).tobytes() == Image.open(BytesIO(content)).tobytes()

    def test_videos_lose_theirs_too(self, site, alice):
        file_id = uploaded(alice, film(), "a.mp4")
        assert streams_of(get(alice, file_id).content)["texts"]["prompt"] == PROMPT
        stripped = get(alice, file_id, metadata="strip")
        assert stripped.headers["Content-Type"] == "video/mp4"
        assert b"SecretNode" not in stripped.content
        assert streams_of(stripped.content)["kinds"] == ["audio", "video"]

    def test_a_file_without_metadata_is_returned_unchanged(self, site, alice):
        file_id = uploaded(alice, b"hello")
        assert get(alice, file_id, metadata="strip").content == b"hello"


class TestVideos:
    def test_a_video_changes_its_format_and_size(self, site, alice):
        file_id = uploaded(alice, film(), "a.mp4")
        answer = get(alice, file_id, format="webm", max_size=64)
        assert answer.headers["Content-Type"] == "video/webm"
        found = streams_of(answer.content)
        assert found["kinds"] == ["audio", "video"]
        assert found["size"] == (64, 48)
        assert found["seconds"] == pytest.approx(2.0, abs=0.2)
        assert found["texts"]["prompt"] == PROMPT

    @on_disk
    @pytest.mark.parametrize("kind", ["GIF", "WEBP"])
    @pytest.mark.parametrize("name", ["mp4", "webm"])
    def test_an_animation_becomes_a_video(self, site, alice, kind, name):
        file_id = uploaded(alice, animated(kind))
        answer = get(alice, file_id, format=name)
        assert answer.headers["Content-Type"] == f"video/{name}"
        found = streams_of(answer.content)
        assert (found["kinds"], found["size"]) == (["video"], (48, 32))
        assert found["seconds"] == pytest.approx(1.2, abs=0.25)


class TestMistakes:
    @pytest.mark.parametrize(
        "query, field",
        [
            ({"format": "tiff"}, "format"),
            ({"quality": 0}, "quality"),
            ({"quality": 101}, "quality"),
            ({"max_size": 1}, "max_size"),
            ({"metadata": "drop"}, "metadata"),
        ],
    )
    def test_they_are_reported_by_their_parameter(self, site, alice, query, field):
        file_id = uploaded(alice, picture())
        body = assert_error(get(alice, file_id, **query), 400, "validation_error")
        assert [each["field"] for each in body["details"]] == [field]

    @pytest.mark.parametrize("query", [{"format": "mp4"}, {"format": "webm", "quality": 50}])
    def test_a_still_picture_is_no_video(self, site, alice, query):
        file_id = uploaded(alice, picture())
        for _ in range(2):
            body = assert_error(get(alice, file_id, **query), 400, "validation_error")
            assert body["details"][0]["code"] == "CANNOT_CONVERT"
            assert "not animated" in body["details"][0]["message"]

    @on_disk
    def test_a_text_file_is_not_an_image(self, site, alice):
        body = assert_error(get(alice, uploaded(alice, b"hello"), format="webp"), 400, "validation_error")
        assert body["details"][0]["field"] == "format"

    @on_disk
    def test_a_damaged_image_is_reported_as_such(self, site, alice):
        file_id = uploaded(alice, with_texts((300, 200))[:3000])
        body = assert_error(get(alice, file_id, format="webp"), 400, "validation_error")
        assert body["details"][0]["code"] == "CANNOT_CONVERT"

    @on_disk
    def test_an_image_that_would_exhaust_memory_is_rejected(self, site, alice):
        stream = BytesIO()
        Image.new("1", (12_000, 12_000)).save(stream, "PNG")
        body = assert_error(
            get(alice, uploaded(alice, stream.getvalue()), format="webp"), 400, "validation_error"
        )
        assert "million pixels" in body["details"][0]["message"]

    def test_others_are_not_served(self, site, alice, bob):
        file_id = uploaded(alice, picture())
        assert_error(get(bob, file_id, format="webp"), 404, "not_found")
        answer = requests.get(f"{site.url}/files/{file_id}?format=tiff", timeout=30)
        assert_error(answer, 401, "unauthorized")


class TestStorage:
    def test_it_is_made_once_and_kept(self, site, alice):
        file_id = uploaded(alice, with_texts((400, 300)))
        before = site.stored()
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: get(alice, file_id, format="webp"), range(8)))
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.content for answer in answers}) == 1
        assert len(site.stored() - before) == 1
        assert get(alice, file_id, format="webp").content == answers[0].content
        assert len(site.stored() - before) == 1

    def test_it_is_listed_nowhere_and_deleted_with_the_original(self, site, newcomer):
        before = site.stored()
        file_id = uploaded(newcomer, picture())
        assert get(newcomer, file_id, format="webp").status_code == 200
        assert get(newcomer, file_id, format="jpeg").status_code == 200
        listed = newcomer.session.get(f"{site.url}/files/", timeout=30)
        assert (len(listed.json()), listed.headers["X-Total-Count"]) == (1, "1")
        assert newcomer.session.delete(f"{site.url}/files/{file_id}", timeout=30).status_code == 200
        assert site.stored() == before

    def test_equal_bytes_share_a_thumbnail_until_the_last_is_deleted(self, site, newcomer):
        content = picture()
        first, second = uploaded(newcomer, content), uploaded(newcomer, content)
        before = site.stored()
        assert get(newcomer, first, format="webp").content == get(newcomer, second, format="webp").content
        assert len(site.stored() - before) == 1
        newcomer.session.delete(f"{site.url}/files/{first}", timeout=30)
        assert get(newcomer, second, format="webp").status_code == 200

    @on_disk
    def test_only_so_many_are_kept_of_one_file(self, site, newcomer):
        file_id = uploaded(newcomer, picture())
        before = site.stored()
        for quality in range(60, 78):
            assert get(newcomer, file_id, format="webp", quality=quality).status_code == 200
        assert len(site.stored() - before) == 16

    def test_nothing_is_left_of_it_on_the_disk(self, site, alice):
        file_id = uploaded(alice, picture())
        get(alice, file_id, format="webp")
        get(alice, file_id, format="mp4")
        site.wait_for_no_incoming()
