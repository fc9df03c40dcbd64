"""`output` of a run: the files in the requested format besides the originals, on a real ComfyUI."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
import requests
from PIL import Image

from files import sandbox
from script.harness import graphs
from script.harness.waiting import wait_for
from tests.factories import Api, assert_error, mistakes
from workflows.models import Graph


@pytest.fixture
def person(gpu_worker):
    return gpu_worker.person()


def downloaded(shown: dict[str, Any]) -> requests.Response:
    answer = requests.get(shown["url"], timeout=30)  # a signed address: no token
    assert answer.status_code == 200, answer.text
    return answer


def animation() -> graphs.Graph:
    size = {"width": 64, "height": 32, "batch_size": 1}
    return {
        "1": {"class_type": "EmptyImage", "inputs": {**size, "color": 0x3366CC}},
        "2": {"class_type": "EmptyImage", "inputs": {**size, "color": 0xCC6633}},
        "3": {"class_type": "ImageBatch", "inputs": {"image1": ["1", 0], "image2": ["2", 0]}},
        "4": {
            "class_type": "SaveAnimatedWEBP",
            "inputs": {
                "images": ["3", 0], "filename_prefix": "moving", "fps": 2.0, "lossless": True, "quality": 80,
                "method": "fastest",
            },
        },
    }  # fmt: skip


class TestOnARealComfyUI:
    def test_the_converted_file_is_listed_with_the_original_at_the_end(self, person):
        wanted = {"format": "webp", "quality": 90, "max_size": 16, "metadata": "strip"}
        graph = graphs.colour(0x3366CC)
        graph["1"]["inputs"] |= {"width": 64, "height": 32}
        result = person.result(person.execute(graph, output=wanted))
        [image] = result["outputs"]["images"]
        assert (image["content_type"], image["width"], image["height"]) == ("image/png", 64, 32)
        made = image["converted"]
        content = downloaded(made)
        assert made == {
            "format": "webp", "filename": image["filename"].replace(".png", ".webp"), "url": made["url"],
            "width": 16, "height": 8, "duration_seconds": None, "content_type": "image/webp",
            "size": len(content.content),
        }  # fmt: skip
        assert content.headers["Content-Type"] == "image/webp"
        found = Image.open(BytesIO(content.content))
        assert (found.format, found.size) == ("WEBP", (16, 8))
        assert b"EmptyImage" in downloaded(image).content, "the original has its metadata"
        assert b"EmptyImage" not in content.content
        listed = person.get("/workflows/").json()[0]
        assert listed["outputs"]["images"][0]["converted"]["size"] == made["size"]

    def test_the_link_is_good_for_that_and_nothing_else(self, person):
        result = person.result(person.execute(graphs.colour(0x3366CF), output={"metadata": "strip"}))
        url = result["outputs"]["images"][0]["converted"]["url"]
        for altered in (url.replace("metadata=strip&", ""), url.replace("strip", "keep")):
            assert requests.get(altered, timeout=30).status_code == 401
        assert requests.get(f"{url}&format=webp", timeout=30).status_code == 401

    def test_an_animation_becomes_a_video(self, person):
        result = person.result(person.execute(animation(), output={"format": "mp4"}))
        [[shown]] = result["outputs"].values()
        assert shown["content_type"] == "image/webp"
        assert shown["converted"]["content_type"] == "video/mp4"
        assert shown["converted"]["duration_seconds"] == pytest.approx(1.0, abs=0.2)
        assert b"ftyp" in downloaded(shown["converted"]).content[:16]

    def test_an_output_that_cannot_be_converted_is_a_warning(self, person):
        result = person.result(person.execute(graphs.colour(0x3366CD), output={"format": "mp4"}))
        [image] = result["outputs"]["images"]
        assert result["status"] == "completed"
        assert "converted" not in image
        [warning] = result["warnings"]
        assert "SaveImage" in warning
        assert "was not converted: The file is not animated, so it cannot become mp4" in warning

    def test_all_of_a_batch_are_converted(self, person):
        body = {
            "workflow": graphs.colour(1), "inputs": [{"1.color": 5}, {"1.color": 6}],
            "output": {"format": "jpeg"},
        }  # fmt: skip
        batch = person.post("/workflows/batch", body).json()
        path = f"/workflows/batches/{batch['batch_id']}"
        whole = wait_for(
            lambda: (found := person.get(path).json())["status"] == "completed" and found,
            seconds=60,
            what="the batch",
        )
        for each in whole["executions"]:
            [image] = person.get(f"/workflows/{each['execution_id']}").json()["outputs"]["images"]
            assert image["converted"]["format"] == "jpeg"


class TestAppsThatDoNotShowTheirWorkflow:
    """Nobody but the owner may find the graph in what they made: not in the files either."""

    def saved(self, owner, workflow, name):
        body = {"name": name, "workflow": workflow, "visibility": "everybody", "inputs": []}
        answer = owner.post("/apps/", body)
        assert answer.status_code == 201, answer.text
        return answer.json()["app"]

    def run(self, person, app):
        answer = person.post(f"/apps/{app}/run", {"inputs": {}})
        assert answer.status_code == 200, answer.text
        result = person.result(answer.json()["execution_id"])
        assert result["status"] == "completed", result
        return [shown for group in result["outputs"].values() for shown in group]

    @pytest.mark.parametrize(
        "name, workflow, secret",
        [
            ("picture", graphs.colour(0x3366AA), b"EmptyImage"),
            ("animation", animation(), b"SaveAnimatedWEBP"),
        ],
    )
    def test_its_visitors_files_do_not_hold_it(self, gpu_worker, name, workflow, secret):
        owner, visitor = gpu_worker.person("owner"), gpu_worker.person("visitor")
        app = self.saved(owner, workflow, name)
        [own] = self.run(owner, app)
        assert secret in downloaded(own).content
        [shown] = self.run(visitor, app)
        content = downloaded(shown)
        assert secret not in content.content
        assert content.headers["Content-Type"] == own["content_type"]
        assert (shown["width"], shown["height"]) == (own["width"], own["height"])


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        "output, field, code",
        [
            ({"format": "tiff"}, "output.format", "INVALID_VALUE"),
            ({"fromat": "webp"}, "output.fromat", "UNKNOWN_FIELD"),
            ({"quality": 0}, "output.quality", "INVALID_VALUE"),
            ({"quality": "80"}, "output.quality", "INVALID_VALUE"),
            ({"max_size": 1_000_000}, "output.max_size", "INVALID_VALUE"),
            ({"metadata": "drop"}, "output.metadata", "INVALID_VALUE"),
            ("webp", "output", "INVALID_VALUE"),
        ],
    )
    @pytest.mark.parametrize("path", ["/workflows/execute", "/workflows/batch", "/workflows/validate"])
    def test_errors_are_reported_by_field(self, alice: Api, path, output, field, code):
        body = {"workflow": graphs.colour(1), "output": output}
        if path.endswith("batch"):
            body["inputs"] = [{"1.color": 2}]
        assert mistakes(assert_error(alice.post(path, body), 400, "validation_error")) == {field: code}

    def test_nothing_is_wanted_by_default(self, alice: Api):
        requests: list[dict[str, Any]] = [{}, {"output": None}, {"output": {}}, {"output": {"format": None}}]
        for output in requests:
            body = {"workflow": graphs.colour(1), **output}
            answer = alice.post("/workflows/execute", body)
            assert answer.status_code == 200, answer.content
            assert Graph.objects.get(execution_id=answer.json()["execution_id"]).output == {}

    def test_a_retry_wants_the_same(self, alice: Api):
        body = {"workflow": graphs.colour(1), "output": {"format": "webp", "quality": 70}}
        first = alice.post("/workflows/execute", body).json()["execution_id"]
        alice.post(f"/workflows/{first}/cancel")
        again = alice.post(f"/workflows/{first}/retry").json()["execution_id"]
        assert Graph.objects.get(execution_id=again).output == {"format": "webp", "quality": 70}


class TestWhenItCannotBeMade:
    def test_a_conversion_that_breaks_costs_the_result_nothing(self, rig, monkeypatch, settings):
        settings.CONVERSION_SECONDS = 0.0
        answer = rig.api.post(
            "/workflows/execute", {"workflow": graphs.colour(1), "output": {"format": "webp"}}
        )
        rig.slots.serve_in_thread()
        body = rig.ends(answer.json()["execution_id"], "completed")
        [image] = body["outputs"]["images"]
        assert "converted" not in image
        assert "longer than 0 seconds" in body["warnings"][0]

    def test_a_worker_that_stops_leaves_it_to_the_download(self, rig, monkeypatch):
        def stopped(*_: Any, **__: Any) -> None:
            raise sandbox.Abandoned

        with monkeypatch.context() as patch:
            patch.setattr(sandbox, "convert", stopped)
            answer = rig.api.post(
                "/workflows/execute", {"workflow": graphs.colour(1), "output": {"format": "webp"}}
            )
            rig.slots.serve_in_thread()
            body = rig.ends(answer.json()["execution_id"], "completed")
        assert "it is converted when it is downloaded" in body["warnings"][0]
        file_id = body["outputs"]["images"][0]["file_id"]
        download = rig.api.get(f"/files/{file_id}?format=webp")
        assert download["Content-Type"] == "image/webp"
        assert download.getvalue()[8:12] == b"WEBP"
