"""OpenAI's image API at /v1, with PyPI's unmodified `openai`."""

from __future__ import annotations

import base64
import json
import random
from contextlib import closing
from http.client import HTTPConnection
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from script.harness import graphs
from script.harness.waiting import wait_for
from tests.doors.openai_clients import client_of


def picture(content: bytes) -> Image.Image:
    return Image.open(BytesIO(content))


def only(made: Any) -> Any:
    """The one picture of OpenAI's answer."""
    [picture] = made.data
    return picture


def save_app(person: Any, name: str, workflow: Any, inputs: list[dict[str, Any]]) -> str:
    answer = person.post("/apps/", {"name": name, "workflow": workflow, "inputs": inputs})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["app"])


PAINT_INPUTS: list[dict[str, Any]] = [
    {"name": "prompt", "node": "3", "input": "text", "type": "text", "required": True},
    {"name": "width", "node": "1", "input": "width"},
    {"name": "height", "node": "1", "input": "height"},
    {"name": "color", "node": "1", "input": "color"},
]


def painting() -> Any:
    """A picture of one colour; the prompt is written down beside it."""
    return {**graphs.colour(0x336699), "3": {"class_type": "PreviewAny", "inputs": {"source": "x"}}}


@pytest.fixture
def person(gpu_worker):
    return gpu_worker.person()


@pytest.fixture
def paint(person) -> str:
    workflow = painting()
    inputs = [each | ({"input": "source"} if each["name"] == "prompt" else {}) for each in PAINT_INPUTS]
    return save_app(person, "paint", workflow, inputs)


def test_images_as_base64_in_the_requested_number_size_and_format(person, paint):
    made = client_of(person).images.generate(
        model=paint, prompt="a lake", n=2, size="48x32", response_format="b64_json",
        output_format="jpeg", output_compression=80, user="someone",
    )  # fmt: skip
    assert len(made.data or []) == 2
    assert made.output_format == "jpeg"
    for each in made.data or []:
        shown = picture(base64.b64decode(each.b64_json or ""))
        assert (shown.format, shown.size) == ("JPEG", (48, 32))
    assert len(person.get("/workflows/").json()) == 2


def test_images_as_urls_and_app_inputs_by_name(person, paint):
    made = client_of(person).images.generate(
        model="paint", prompt="x", size="auto", response_format="url", extra_body={"color": 0xFF0000}
    )
    content = person.session.get(only(made).url, headers={"Authorization": ""}, timeout=30).content
    assert picture(content).convert("RGB").getpixel((3, 3)) == (255, 0, 0)


def test_quality_style_and_background_are_inputs_of_the_app(person):
    names = ("quality", "style", "background")
    workflow = graphs.colour(0x336699)
    workflow |= {name: {"class_type": "PreviewAny", "inputs": {"source": "unset"}} for name in names}
    inputs = [{"name": name, "node": name, "input": "source", "type": "text"} for name in names]
    app = save_app(person, "styled", workflow, [*inputs, {"name": "width", "node": "1", "input": "width"}])
    made = client_of(person).images.generate(
        model=app, prompt="x", quality="high", style="vivid", background="transparent", size="auto",
        user="someone", response_format="b64_json",
    )  # fmt: skip
    assert picture(base64.b64decode(only(made).b64_json)).size == (16, 16)  # the app's own
    [listed] = person.get("/workflows/").json()
    execution = person.get(f"/workflows/{listed['execution_id']}").json()
    texts = {each["node_id"]: each["text"] for each in execution["outputs"]["texts"]}
    assert texts == {"quality": "high", "style": "vivid", "background": "transparent"}
    assert execution["metadata"]["user"] == "someone"


def test_pictures_behind_addresses_are_in_the_wanted_format_and_compression(person, paint):
    def made(compression: int) -> int:
        made = client_of(person).images.generate(
            model=paint, prompt="x", size="64x64", response_format="url", output_format="jpeg",
            output_compression=compression,
        )  # fmt: skip
        assert made.output_format == "jpeg"
        content = person.session.get(only(made).url, headers={"Authorization": ""}, timeout=30).content
        shown = picture(content)
        assert isinstance(shown, JpegImageFile)
        assert (shown.format, shown.size) == ("JPEG", (64, 64))
        return sum(sum(table) for table in shown.quantization.values())

    assert made(0) > made(100)


@pytest.mark.parametrize("alias", ["gpt-image-1", "dall-e-3"])
def test_an_operators_alias_names_an_app(person, gpu_worker, alias):
    """The tests' service points both names at the app `gpt-image-1-app` of whoever asks."""
    prompt = {"name": "prompt", "node": "3", "input": "source", "type": "text"}
    save_app(person, "gpt-image-1-app", painting(), [prompt])
    client = client_of(person)
    assert client.models.list().data[0].id == "gpt-image-1"
    assert client.models.retrieve(alias).owned_by == client.models.retrieve("gpt-image-1-app").owned_by
    made = only(client.images.generate(model=alias, prompt="x"))
    assert (made.url is None) == (alias == "gpt-image-1")  # each answers as OpenAI's model of that name
    stranger = client_of(gpu_worker.person())
    assert alias not in [model.id for model in stranger.models.list()]
    with pytest.raises(openai.NotFoundError):
        stranger.images.generate(model=alias, prompt="x")


def test_a_stream_ends_with_the_picture(person, paint):
    events = list(client_of(person).images.generate(model=paint, prompt="x", stream=True))
    assert [event.type for event in events] == ["image_generation.completed"]
    assert picture(base64.b64decode(events[0].b64_json)).size == (16, 16)


def sampling(person: Any, *, steps: int) -> str:
    """An app that samples for seconds, with previews."""
    workflow = graphs.txt2img(steps=steps, seed=random.randrange(2**32))
    prompt = {"name": "prompt", "node": "2", "input": "text", "type": "text", "required": True}
    return save_app(person, "sampling", workflow, [prompt])


def test_a_stream_shows_partial_images_before_the_picture(person):
    app = sampling(person, steps=300)
    events = list(client_of(person).images.generate(model=app, prompt="x", stream=True, partial_images=2))
    *partial, last = [each.model_dump() for each in events]
    assert 1 <= len(partial) <= 2
    for index, each in enumerate(partial):
        assert (each["type"], each["partial_image_index"]) == ("image_generation.partial_image", index)
        assert each["output_format"] == "jpeg"
        assert picture(base64.b64decode(each["b64_json"])).format == "JPEG"
    assert (last["type"], last["size"]) == ("image_generation.completed", "64x64")
    assert picture(base64.b64decode(last["b64_json"])).size == (64, 64)
    with pytest.raises(openai.BadRequestError):
        client_of(person).images.generate(model=app, prompt="x", stream=True, partial_images=4)


def test_a_stream_that_has_begun_ends_with_the_error(person):
    workflow = {
        **painting(), "5": {"class_type": "TestFail", "inputs": {"image": ["1", 0], "message": "no"}},
        "6": {"class_type": "PreviewImage", "inputs": {"images": ["5", 0]}},
    }  # fmt: skip
    prompt = {"name": "prompt", "node": "3", "input": "source", "type": "text"}
    app = save_app(person, "failing", workflow, [prompt])
    with pytest.raises(openai.APIError, match="no"):
        list(client_of(person).images.generate(model=app, prompt="x", stream=True, partial_images=1))


def test_a_client_that_leaves_a_stream_cancels_the_execution(person):
    app = sampling(person, steps=5000)
    stream = client_of(person).images.generate(model=app, prompt="x", stream=True, partial_images=3)
    assert next(iter(stream)).type == "image_generation.partial_image"
    stream.close()
    [execution] = person.get("/workflows/").json()
    assert person.result(execution["execution_id"])["status"] == "cancelled"


def test_an_edit_takes_a_picture_and_a_mask(person):
    workflow = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
        "4": {"class_type": "LoadImageMask", "inputs": {"image": "example.png", "channel": "alpha"}},
        "5": {"class_type": "MaskToImage", "inputs": {"mask": ["4", 0]}},
        "6": {"class_type": "ImageScale", "inputs": {
            "image": ["1", 0], "upscale_method": "area", "width": 16, "height": 16, "crop": "disabled"}},
        "7": {"class_type": "ImageBlend", "inputs": {
            "image1": ["6", 0], "image2": ["5", 0], "blend_factor": 1.0, "blend_mode": "multiply"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["7", 0], "filename_prefix": "edit"}},
        "3": {"class_type": "PreviewAny", "inputs": {"source": "x"}},
    }  # fmt: skip
    app = save_app(person, "edit", workflow, [
        {"name": "prompt", "node": "3", "input": "source", "type": "text", "required": True},
        {"name": "photo", "node": "1", "input": "image", "type": "image", "required": True},
        {"name": "where", "node": "4", "input": "image", "type": "mask", "required": True},
    ])  # fmt: skip
    photo, mask = BytesIO(), BytesIO()
    Image.new("RGB", (16, 16), (0, 200, 0)).save(photo, "PNG")
    half = Image.new("RGBA", (16, 16), (0, 0, 0, 255))
    half.paste((0, 0, 0, 0), (0, 0, 8, 16))  # transparent: to be edited
    half.save(mask, "PNG")
    client = client_of(person)
    made = client.images.edit(
        model=app,
        image=[("photo.png", photo.getvalue())],
        mask=("mask.png", mask.getvalue()),
        prompt="greener",
        response_format="b64_json",
    )
    shown = picture(base64.b64decode(only(made).b64_json)).convert("RGB")
    assert shown.getpixel((2, 8)) == (0, 200, 0)
    assert shown.getpixel((13, 8)) == (0, 0, 0)
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.edit(model=app, image=("a.png", b"no picture"), prompt="x")
    assert refused.value.param == "image"


def test_models_are_the_apps_that_one_may_run(person, paint, gpu_worker):
    client = client_of(person)
    assert paint in [model.id for model in client.models.list()]
    assert client.models.retrieve(paint).id == paint
    stranger = client_of(gpu_worker.person())
    assert paint not in [model.id for model in stranger.models.list()]
    with pytest.raises(openai.NotFoundError) as refused:
        stranger.images.generate(model=paint, prompt="x")
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")


def test_errors_have_openais_shape(person, paint):
    client = client_of(person)
    with pytest.raises(openai.AuthenticationError) as unknown:
        client.with_options(api_key="csk_wrong").models.list()
    assert unknown.value.type == "authentication_error"
    with pytest.raises(openai.BadRequestError) as size:
        client.images.generate(model=paint, prompt="x", size="large")
    assert (size.value.param, size.value.type) == ("size", "invalid_request_error")
    with pytest.raises(openai.BadRequestError) as misspelt:
        client.images.generate(model=paint, prompt="x", n=2, extra_body={"colour": 1})
    assert misspelt.value.param == "colour"
    assert "color" in misspelt.value.message
    with pytest.raises(openai.NotFoundError):
        client.get("/nothing", cast_to=object)


def test_a_failed_execution_is_an_error_that_is_not_repeated(person):
    workflow = {
        "1": {"class_type": "TestFail", "inputs": {"image": ["3", 0], "message": "x"}},
        "3": graphs.colour(1)["1"],
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "never"}},
    }
    app = save_app(person, "fail", workflow, [
        {"name": "prompt", "node": "1", "input": "message", "type": "text"},
    ])  # fmt: skip
    with pytest.raises(openai.InternalServerError) as failed:
        client_of(person).with_options(max_retries=2).images.generate(model=app, prompt="no luck")
    assert failed.value.type == "server_error"
    assert "no luck" in failed.value.message
    assert len(person.get("/workflows/").json()) == 1


def test_an_app_with_a_number_of_pictures_makes_them_in_one_execution(person):
    workflow = painting()
    app = save_app(person, "several", workflow, [
        {"name": "prompt", "node": "3", "input": "source", "type": "text"},
        {"name": "pictures", "node": "1", "input": "batch_size"},
    ])  # fmt: skip
    made = client_of(person).images.generate(model=app, prompt="x", n=3)
    assert len(made.data or []) == 3
    assert len(person.get("/workflows/").json()) == 1


def test_a_client_that_disconnects_leaves_nothing_running(person):
    workflow = {**graphs.sleep(60), "3": painting()["3"]}
    app = save_app(person, "slow", workflow, [
        {"name": "prompt", "node": "3", "input": "source", "type": "text"},
    ])  # fmt: skip
    connection = HTTPConnection(urlsplit(person.url).netloc, timeout=30)
    headers = {"Authorization": person.session.headers["Authorization"], "Content-Type": "application/json"}
    body = json.dumps({"model": app, "prompt": "x", "n": 2})
    with closing(connection):
        connection.request("POST", "/v1/images/generations", body, headers)
        executions = wait_for(
            lambda: len(found := person.get("/workflows/").json()) == 2 and found, what="its executions"
        )
    for execution in executions:
        assert person.result(execution["execution_id"])["status"] == "cancelled"


def test_a_picture_to_edit_may_be_larger_than_a_json_body(person):
    app = save_app(
        person,
        "same",
        {
            "1": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "same"}},
            "3": painting()["3"],
        },
        [
            {"name": "prompt", "node": "3", "input": "source", "type": "text"},
            {"name": "image", "node": "1", "input": "image", "type": "image"},
        ],
    )
    photo = BytesIO()
    Image.frombytes("RGB", (2048, 2048), random.Random(1).randbytes(2048 * 2048 * 3)).save(photo, "PNG")
    assert len(photo.getvalue()) > 10 * 1024 * 1024
    made = client_of(person).images.edit(
        model=app, image=("photo.png", photo.getvalue()), prompt="x", response_format="b64_json",
        output_format="webp",
    )  # fmt: skip
    assert picture(base64.b64decode(only(made).b64_json)).size == (2048, 2048)
