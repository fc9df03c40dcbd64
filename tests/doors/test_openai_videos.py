"""OpenAI's video API at /v1/videos, with PyPI's unmodified `openai`."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import openai
import pytest
from openai.types import Video
from PIL import Image

from script.harness import graphs
from tests.doors.openai_clients import client_of
from tests.doors.test_openai import painting, picture, save_app

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")

PROMPT = {"name": "prompt", "node": "5", "input": "source", "type": "text"}


@pytest.fixture
def person(gpu_worker):
    return gpu_worker.person()


def moving(first: dict[str, Any]) -> graphs.Graph:
    """Two pictures, half a second each."""
    return {
        "1": first,
        "2": {
            "class_type": "EmptyImage",
            "inputs": {"width": 64, "height": 32, "batch_size": 1, "color": 0xCC6633},
        },
        "3": {"class_type": "ImageBatch", "inputs": {"image1": ["2", 0], "image2": ["1", 0]}},
        "4": {
            "class_type": "SaveAnimatedWEBP",
            "inputs": {
                "images": ["3", 0], "filename_prefix": "moving", "fps": 2.0, "lossless": True, "quality": 80,
                "method": "fastest",
            },
        },
        "5": {"class_type": "PreviewAny", "inputs": {"source": "x"}},
    }  # fmt: skip


@pytest.fixture
def film(person) -> str:
    first = {
        "class_type": "EmptyImage",
        "inputs": {"width": 64, "height": 32, "batch_size": 1, "color": 0x3366CC},
    }
    sides = [{"name": side, "node": "2", "input": side} for side in ("width", "height")]
    return save_app(person, "film", moving(first), [PROMPT, *sides])


def test_a_video_is_made_polled_downloaded_listed_and_deleted(person, film, gpu_worker):
    client = client_of(person)
    made = client.videos.create(model=film, prompt="waves", size="128x64", seconds="4")
    assert (made.object, made.model, made.prompt, made.size) == ("video", film, "waves", "128x64")
    assert made.status in ("queued", "in_progress", "completed")
    done = client.videos.poll(made.id, poll_interval_ms=100)
    assert (done.status, done.progress, done.error) == ("completed", 100, None)
    assert (done.size, done.seconds) == ("128x64", "1")
    content = client.videos.download_content(made.id).read()
    assert b"ftyp" in content[:16]
    thumbnail = client.videos.download_content(made.id, variant="thumbnail").read()
    assert picture(thumbnail).format == "WEBP"
    stranger = client_of(gpu_worker.person())
    with pytest.raises(openai.NotFoundError):
        stranger.videos.retrieve(made.id)
    assert client.videos.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(made.id)


def test_pages_of_videos_have_no_other_executions(person, film):
    client = client_of(person)
    person.execute(graphs.colour(1))
    ids = [client.videos.create(model=film, prompt=str(i)).id for i in range(3)]
    assert [each.id for each in client.videos.list(limit=2)] == ids[::-1]  # two pages
    assert [each.id for each in client.videos.list(limit=2, order="asc")] == ids


@pytest.mark.parametrize("mark", ["x", {}, None, {"model": 1, "prompt": {"a": []}}])
def test_metadata_that_looks_like_a_videos_spoils_no_list(person, mark):
    execution_id = person.execute(graphs.colour(1), metadata={"openai_video": mark})
    listed = person.get("/v1/videos")
    assert listed.status_code == 200, listed.text
    assert listed.json()["data"][0]["id"] == execution_id
    assert person.get(f"/v1/videos/{execution_id}").status_code == 200


def test_a_reference_is_the_apps_picture(person):
    scaled = {
        "class_type": "ImageScale",
        "inputs": {
            "image": ["6", 0],
            "upscale_method": "area",
            "width": 64,
            "height": 32,
            "crop": "disabled",
        },
    }
    workflow = moving(scaled) | {"6": {"class_type": "LoadImage", "inputs": {"image": "example.png"}}}
    photo = {"name": "photo", "node": "6", "input": "image", "type": "image", "required": True}
    app = save_app(person, "animate", workflow, [PROMPT, photo])
    client = client_of(person)
    out = BytesIO()
    Image.new("RGB", (16, 16), (0, 200, 0)).save(out, "PNG")
    given = ("photo.png", out.getvalue())
    made = client.videos.create_and_poll(model=app, prompt="x", input_reference=given, poll_interval_ms=100)
    assert made.status == "completed"
    id_ = person.post("/files/upload", files={"file": given}).json()["file_id"]
    body = {"model": app, "prompt": "x", "input_reference": {"file_id": id_}}  # not in its own form
    made = client.post("/videos", body=body, cast_to=Video)
    assert client.videos.poll(made.id, poll_interval_ms=100).status == "completed"
    with pytest.raises(openai.BadRequestError) as refused:
        client.videos.create(model=app, prompt="x", input_reference=("a.png", b"no picture"))
    assert refused.value.param == "input_reference"


def test_an_app_that_produces_no_video_fails_with_the_reason(person):
    prompt = {"name": "prompt", "node": "3", "input": "source", "type": "text"}
    app = save_app(person, "still", painting(), [prompt])
    client = client_of(person)
    made = client.videos.create_and_poll(model=app, prompt="x", poll_interval_ms=100)
    assert made.status == "failed"
    assert made.error is not None
    assert "produced no video" in made.error.message
    assert "not animated" in made.error.message
    with pytest.raises(openai.NotFoundError):
        client.videos.download_content(made.id)


def test_a_video_that_is_made_now_has_no_content_and_is_not_deleted(person):
    workflow = {**graphs.sleep(60), "5": painting()["3"]}
    client = client_of(person).with_options(max_retries=0)
    made = client.videos.create(model=save_app(person, "slow", workflow, [PROMPT]), prompt="x")
    with pytest.raises(openai.NotFoundError):
        client.videos.download_content(made.id)
    with pytest.raises(openai.ConflictError):
        client.videos.delete(made.id)
    person.post(f"/workflows/{made.id}/cancel")
    cancelled = client.videos.poll(made.id, poll_interval_ms=100)
    assert cancelled.error is not None
    assert (cancelled.status, cancelled.error.code) == ("failed", "cancelled")
