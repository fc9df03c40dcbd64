"""Pictures at ComfyUI's routes, pixel for pixel beside those of a real ComfyUI."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from blake3 import blake3
from PIL import Image, ImageChops, ImageDraw
from PIL.PngImagePlugin import PngInfo

from script.harness import graphs
from script.harness.stack import Person
from script.harness.waiting import wait_for


@pytest.fixture
def person(stack: Any) -> Person:
    stack.start_web()
    return stack.person()


def drawn(mode: str, size: tuple[int, int] = (48, 32)) -> Image.Image:
    """A picture with colours that differ from pixel to pixel, and half transparent where the mode can be."""
    picture = Image.radial_gradient("L").resize(size)
    colours = Image.merge("RGB", (picture, picture.rotate(90), picture.rotate(180).point(lambda v: 255 - v)))
    ImageDraw.Draw(colours).rectangle((4, 4, 12, 12), fill="red")
    if mode == "RGBA":
        colours.putalpha(picture.rotate(45))
    return colours if mode in ("RGB", "RGBA") else colours.convert(mode)


def encoded(picture: Image.Image, format_: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, format_, **options)
    return out.getvalue()


def upload(
    url: str, session: Any, content: bytes, name: str, path: str = "/upload/image", **form: str
) -> Any:
    files = {"image": (name, content, "image/png")}
    return session.post(f"{url}{path}", files=files, data=form, timeout=30)


def pixels(content: bytes) -> tuple[str | None, str, tuple[int, int], bytes]:
    picture = Image.open(io.BytesIO(content))
    return picture.format, picture.mode, picture.size, picture.tobytes()


class Both:
    """The same calls to this service and to a ComfyUI."""

    def __init__(self, person: Person, comfyui: Any) -> None:
        self._sides: list[tuple[str, Any]] = [
            (f"{person.url}/comfyui", person.session), (comfyui.url, requests.Session()),
        ]  # fmt: skip

    def upload(self, content: bytes, **form: str) -> list[str]:
        name = f"{uuid.uuid4().hex}.png"
        return [upload(url, with_, content, name, **form).json()["name"] for url, with_ in self._sides]

    def mask(self, names: list[str], content: bytes) -> list[requests.Response]:
        refs = [json.dumps({"filename": name, "subfolder": "", "type": "input"}) for name in names]
        return [
            upload(url, with_, content, f"{uuid.uuid4().hex}.png", "/upload/mask", original_ref=ref)
            for (url, with_), ref in zip(self._sides, refs, strict=True)
        ]

    def view(self, names: list[str], **query: str) -> Iterator[requests.Response]:
        for (url, with_), name in zip(self._sides, names, strict=True):
            yield with_.get(f"{url}/view", params={"filename": name, "type": "input", **query}, timeout=30)


@pytest.fixture
def both(person: Person, comfyui: Any) -> Both:
    return Both(person, comfyui)


@pytest.mark.parametrize("mode", ["RGBA", "RGB", "L", "P"])
@pytest.mark.parametrize(
    "query",
    [
        {"channel": "rgb"},
        {"channel": "a"},
        {"channel": "rgba"},
        {"preview": "webp;50"},
        {"preview": "webp;90"},
        {"preview": "jpeg"},
        {"preview": "jpeg;30"},
        {"preview": "gif;x"},
        {"preview": ""},
        {"preview": "webp;90", "channel": "rgb"},
        {"preview": "jpeg", "channel": "rgba"},
    ],
    ids=lambda query: "&".join(f"{key}={value}" for key, value in query.items()),
)
def test_view_shows_the_pixels_that_comfyui_shows(both: Both, mode: str, query: dict[str, str]):
    names = both.upload(encoded(drawn(mode)))
    ours, theirs = both.view(names, **query)
    assert ours.status_code == theirs.status_code == 200, (ours.text[:300], theirs.status_code)
    assert ours.headers["Content-Type"] == theirs.headers["Content-Type"]
    assert pixels(ours.content)[1:] == pixels(theirs.content)[1:]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_a_mask_gives_its_transparency_to_the_original(both: Both, mode: str):
    texts = PngInfo()
    texts.add_text("prompt", '{"1": {}}')
    texts.add_itxt("workflow", '{"nodes": "ä"}', lang="de", tkey="w")
    names = both.upload(encoded(drawn(mode), pnginfo=texts))
    mask = drawn("RGBA").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    answers = both.mask(names, encoded(mask))
    assert [answer.status_code for answer in answers] == [200, 200], answers[0].text
    ours, theirs = both.view([answer.json()["name"] for answer in answers])
    assert pixels(ours.content) == pixels(theirs.content)
    made, expected = (Image.open(io.BytesIO(each.content)) for each in (ours, theirs))
    assert made.getchannel("A").tobytes() == mask.getchannel("A").tobytes()
    assert made.text == expected.text == {"prompt": '{"1": {}}', "workflow": '{"nodes": "ä"}'}  # type: ignore[attr-defined]


def masked(person: Person, original_ref: str | None, mask: bytes) -> requests.Response:
    form = {} if original_ref is None else {"original_ref": original_ref}
    return upload(f"{person.url}/comfyui", person.session, mask, "mask.png", "/upload/mask", **form)


def test_a_mask_needs_an_original_that_fits(person: Person, stack: Any):
    url, picture = f"{person.url}/comfyui", encoded(drawn("RGBA"))
    name = upload(url, person.session, picture, "a.png").json()["name"]
    text = upload(url, person.session, b"a text", "a.txt").json()["name"]
    good = json.dumps({"filename": name})
    for ref, mask, status in (
        (None, picture, 400),
        ("no JSON", picture, 400),
        ("[" * 1500, picture, 400),
        ("{}", picture, 400),
        (json.dumps({"filename": "nothing.png", "type": "input"}), picture, 404),
        (json.dumps({"filename": "a.png", "type": "elsewhere"}), picture, 400),
        (json.dumps({"filename": text}), picture, 400),
        (good, encoded(drawn("RGBA", (47, 32))), 400),
        (good, b"no picture", 400),
        (good, picture, 200),
    ):
        answer = masked(person, ref, mask)
        assert answer.status_code == status, (ref, answer.text)
        assert status == 200 or answer.json()["error"]["message"]
    assert masked(stack.person(), good, picture).status_code == 404


def test_a_mask_of_too_many_pixels_is_refused(person: Person):
    """It is a megabyte of file and gigabytes of pixels."""
    name = upload(f"{person.url}/comfyui", person.session, encoded(drawn("RGBA")), "a.png").json()["name"]
    bomb = encoded(Image.new("1", (12000, 12000)))
    answer = masked(person, json.dumps({"filename": name}), bomb)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "validation_error")


def test_a_masked_picture_is_an_input_by_the_name_that_the_editor_writes(gpu_worker: Any):
    person = gpu_worker.person()
    url = f"{person.url}/comfyui"
    name = upload(url, person.session, encoded(drawn("RGB")), "a.png").json()["name"]
    made = masked(person, json.dumps({"filename": name, "type": "input"}), encoded(drawn("RGBA"))).json()
    prompt = {
        "1": {"class_type": "LoadImage", "inputs": {"image": f"clipspace/{made['name']} [input]"}},
        "2": {"class_type": "MaskToImage", "inputs": {"mask": ["1", 1]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "mask"}},
    }
    answer = person.post("/comfyui/prompt", {"prompt": prompt})
    prompt_id = answer.json().get("prompt_id")
    assert prompt_id, answer.text
    entry = wait_for(
        lambda: person.get(f"/comfyui/history/{prompt_id}").json().get(prompt_id), seconds=60, what="its end"
    )
    picture = person.get("/comfyui/view", params=entry["outputs"]["3"]["images"][0])
    shown = Image.open(io.BytesIO(picture.content)).convert("L")
    expected = drawn("RGBA").getchannel("A").point(lambda value: 255 - value)
    difference = max(ImageChops.difference(shown, expected).tobytes())
    assert difference <= 1  # ComfyUI's floats are rounded


def test_a_name_is_looked_for_among_the_files_of_its_type(gpu_worker: Any):
    person = gpu_worker.person()
    prompt = graphs.colour(0x00FF00, prefix="same")
    prompt["3"] = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    prompt_id = person.post("/comfyui/prompt", {"prompt": prompt}).json()["prompt_id"]
    entry = wait_for(
        lambda: person.get(f"/comfyui/history/{prompt_id}").json().get(prompt_id), seconds=60, what="its end"
    )
    [saved], [shown] = (entry["outputs"][node]["images"] for node in ("2", "3"))
    assert (saved["type"], shown["type"]) == ("output", "temp")
    upload(
        f"{person.url}/comfyui", person.session, encoded(Image.new("RGB", (8, 8), "red")), saved["filename"]
    )

    def size(**query: str) -> tuple[int, int] | int:
        answer = person.get("/comfyui/view", params=query)
        return Image.open(io.BytesIO(answer.content)).size if answer.ok else answer.status_code

    name, preview = saved["filename"], shown["filename"]
    assert size(filename=name) == size(filename=name, type="output") == (16, 16)
    assert size(filename=name, type="input") == size(filename=f"{name} [input]", type="output") == (8, 8)
    assert size(filename=preview, type="temp") == size(filename=f"{preview} [temp]") == (16, 16)
    assert size(filename=preview, type="output") == size(filename=name, type="temp") == 404
    assert size(filename=name, type="models") == 400
    assert size() == size(filename="") == 404
    picture = person.get("/comfyui/view", params=saved).content
    assert size(filename=f"blake3:{blake3(picture).hexdigest()}") == (16, 16)
    assert size(filename="blake3:" + "0" * 64) == 404


def test_videos_are_marked_as_comfyui_marks_them(gpu_worker: Any, comfyui: Any):
    person = gpu_worker.person()
    size = {"width": 32, "height": 32, "batch_size": 1}
    prompt = {
        "1": {"class_type": "EmptyImage", "inputs": {**size, "color": 255}},
        "2": {"class_type": "EmptyImage", "inputs": {**size, "color": 65280}},
        "3": {"class_type": "ImageBatch", "inputs": {"image1": ["1", 0], "image2": ["2", 0]}},
        "5": {"class_type": "CreateVideo", "inputs": {"images": ["3", 0], "fps": 2.0}},
        "6": {
            "class_type": "SaveVideo",
            "inputs": {"video": ["5", 0], "filename_prefix": "film", "format": "mp4", "codec": "h264"},
        },
        "7": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }  # fmt: skip
    marked = []
    for url, session in ((f"{person.url}/comfyui", person.session), (comfyui.url, requests.Session())):
        answer = session.post(f"{url}/prompt", json={"prompt": prompt}, timeout=30)
        assert answer.ok, answer.text
        prompt_id = answer.json()["prompt_id"]
        entry = wait_for(
            lambda: session.get(f"{url}/history/{prompt_id}", timeout=30).json().get(prompt_id),  # noqa: B023
            seconds=60,
            what="the end of the prompt",
        )
        shown = entry["outputs"]
        marked.append({node: (sorted(made), made.get("animated")) for node, made in shown.items()})
    assert marked[0] == marked[1]
    assert {node for node, (_, animated) in marked[0].items() if animated == [True]} == {"6"}
