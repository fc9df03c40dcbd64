"""Files as inputs of workflows: by file_id, URL and `data:` URL. On a real ComfyUI."""

from __future__ import annotations

import base64
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

import pillow_heif
import pytest
import requests
from PIL import Image

from script.harness.stack import Person
from script.harness.waiting import wait_for
from tests.files.conftest import picture, uploaded
from tests.pictures import pixel

OTHERS = [
    (b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"></svg>', "image/svg+xml"),
    (b"<!doctype html><html>nothing to see</html>", "text/html"),
    (b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(28), "audio/x-wav"),
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n" + bytes(40), "image/jxl; convert it to PNG"),
    (b"\xff\x0a" + bytes(40), "image/jxl; convert it to PNG"),
    (b"\x76\x2f\x31\x01\x02" + bytes(40), "image/x-exr; convert it to PNG"),
    (b"\x00\x00\x00\x18ftypcrx " + bytes(40), "image/x-canon-cr3; convert it to PNG"),
    (b"FUJIFILMCCD-RAW 0201" + bytes(40), "image/x-fuji-raf; convert it to PNG"),
    (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 1 +X 1\n", "image/vnd.radiance; convert it to PNG"),
    (b"P6\x0a8 8\x0a255\x0a" + bytes(192), "application/octet-stream, an unknown format; PNG, JPEG, WebP"),
]


def tiff(*tags: int) -> bytes:
    """The head of a TIFF with these tags in its first directory."""
    entries = b"".join(tag.to_bytes(2, "little") + bytes(10) for tag in sorted(tags))
    return b"II*\x00\x08\x00\x00\x00" + len(tags).to_bytes(2, "little") + entries + bytes(40)


OTHERS += [
    (tiff(0x0100, 0xC612), "image/x-adobe-dng; convert it to PNG"),
    (tiff(0x010F, 0x014A), "image/x-raw; convert it to PNG"),
]


def loading(value: str) -> dict[str, Any]:
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": value}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "loaded"}},
    }


def data_url(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def saved_colour(result: dict[str, Any]) -> tuple[int, ...]:
    assert result["status"] == "completed", result
    [saved] = result["outputs"]["images"]
    content = requests.get(saved["url"], timeout=10).content
    return pixel(Image.open(BytesIO(content)).convert("RGB"), (3, 3))


def refusal(person: Person, workflow: dict[str, Any]) -> dict[str, str]:
    answer = person.post("/workflows/execute", {"workflow": workflow})
    assert answer.status_code == 400, answer.text
    [detail] = answer.json()["details"]
    return detail


class Gallery:
    """A web server with one picture at /picture, and other things elsewhere."""

    def __init__(self, content: bytes) -> None:
        gallery = self
        self.asked = 0
        self.release = threading.Event()  # until then /slow is not answered

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                gallery.asked += 1
                if self.path == "/slow":
                    gallery.release.wait(20)
                body = content if self.path in ("/picture", "/slow") else b"<html>nothing to see</html>"
                self.send_response({"/missing": 404, "/inside": 302}.get(self.path, 200))
                self.send_header("Location", "http://127.0.0.2/")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=[0.05], daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def colour() -> tuple[int, ...]:
    return tuple(os.urandom(3))


@pytest.fixture
def gallery(colour) -> Iterator[Gallery]:
    gallery = Gallery(picture(colour))
    yield gallery
    gallery.stop()


@pytest.fixture(scope="module")
def alice(_stack) -> Iterator[Person]:
    _stack.start_web(env={"OUTBOUND_ALLOW": "127.0.0.1"})
    yield _stack.person("alice")
    _stack.stop_web()


@pytest.fixture(scope="class")
def worker(_stack, _first_comfyui) -> Iterator[None]:
    """One for a class of tests, and gone when what comes after wants to see executions wait."""
    env = {"OUTBOUND_ALLOW": "127.0.0.1"}
    _stack.start_worker("gpu-inputs", comfyui_url=_first_comfyui.url, env=env, keep=True)
    yield
    _stack.end_worker("gpu-inputs")


@pytest.mark.usefixtures("worker")
class TestPlaced:
    """The same picture comes out, however it went in."""

    def test_by_file_id_by_address_and_as_data(self, alice, gallery, colour):
        file_id = uploaded(alice, picture(colour), "cat.png")
        values = [file_id, f"{gallery.url}/picture", data_url(picture(colour))]
        ids = [alice.execute(loading(value)) for value in values]
        assert [saved_colour(alice.result(id_)) for id_ in ids] == [colour] * 3

    def test_an_input_deleted_before_its_use_is_placed_again(self, alice, gallery, colour, comfyui):
        folder = comfyui.folder / "input" / "comfyserve"
        workflow = loading(uploaded(alice, picture())) | {
            "3": {"class_type": "LoadImage", "inputs": {"image": f"{gallery.url}/slow"}},
            "4": {"class_type": "ImageBatch", "inputs": {"image1": ["1", 0], "image2": ["3", 0]}},
        }
        workflow["2"]["inputs"]["images"] = ["4", 0]
        before = set(folder.glob("*"))
        execution_id = alice.execute(workflow)
        wait_for(lambda: gallery.asked, what="the second input to be fetched")
        [placed] = set(folder.glob("*")) - before
        placed.unlink()
        gallery.release.set()
        result = alice.result(execution_id)
        assert len(result["outputs"]["images"]) == 2, result

    @pytest.mark.parametrize("way", ["file", "address", "data"])
    def test_a_mask_is_accepted_in_the_same_forms(self, alice, gallery, colour, way):
        content = picture(colour)
        value = {
            "file": lambda: uploaded(alice, content),
            "address": lambda: f"{gallery.url}/picture",
            "data": lambda: data_url(content),
        }[way]()
        workflow = {
            "1": {"class_type": "LoadImageMask", "inputs": {"image": value, "channel": "red"}},
            "2": {"class_type": "MaskToImage", "inputs": {"mask": ["1", 0]}},
            "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "mask"}},
        }
        assert saved_colour(alice.result(alice.execute(workflow))) == (colour[0],) * 3

    def test_a_node_that_reads_from_outputs_accepts_it_too(self, alice, colour):
        workflow = loading(uploaded(alice, picture(colour)))
        workflow["1"]["class_type"] = "LoadImageOutput"
        assert saved_colour(alice.result(alice.execute(workflow))) == colour

    def test_a_generated_video_can_be_an_input(self, alice):
        made = alice.result(
            alice.execute(
                {
                    "1": {
                        "class_type": "EmptyImage",
                        "inputs": {"width": 64, "height": 64, "batch_size": 4, "color": 0xFFFFFF},
                    },
                    "2": {"class_type": "CreateVideo", "inputs": {"images": ["1", 0], "fps": 8.0}},
                    "3": {
                        "class_type": "SaveVideo",
                        "inputs": {
                            "video": ["2", 0], "filename_prefix": "v", "format": "mp4", "codec": "h264",
                        },
                    },
                }
            )
        )  # fmt: skip
        [video] = made["outputs"]["videos"]
        again = {
            "1": {"class_type": "LoadVideo", "inputs": {"file": video["file_id"]}},
            "2": {"class_type": "GetVideoComponents", "inputs": {"video": ["1", 0]}},
            "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "frames"}},
        }
        result = alice.result(alice.execute(again))
        assert result["status"] == "completed", result
        assert len(result["outputs"]["images"]) == 4

    def test_in_the_format_of_the_reference(self, alice, colour):
        file_id = uploaded(alice, picture(colour))
        image = {"name": "image", "type": "STRING", "value": file_id, "required": True}
        images = {"name": "images", "type": "IMAGE", "value": ["1", 0], "required": True}
        prefix = {"name": "filename_prefix", "type": "STRING", "value": "loaded", "required": True}
        nodes = {
            "1": {"id": "1", "class_type": "LoadImage", "inputs": [image]},
            "2": {"id": "2", "class_type": "SaveImage", "inputs": [images, prefix]},
        }
        assert saved_colour(alice.result(alice.execute({"nodes": nodes}))) == colour

    def test_an_output_may_be_an_input(self, alice, colour):
        first = alice.result(alice.execute(loading(uploaded(alice, picture(colour)))))
        [saved] = first["outputs"]["images"]
        assert saved_colour(alice.result(alice.execute(loading(saved["file_id"])))) == colour

    @pytest.mark.parametrize("door", ["id", "data", "address"])
    def test_heic_as_phones_make_it_is_converted(self, alice, door):
        target = BytesIO()
        pillow_heif.from_pillow(Image.new("RGB", (64, 64), (200, 40, 40))).save(target, quality=90)
        heic = target.getvalue()
        if door == "id":
            result = alice.result(alice.execute(loading(uploaded(alice, heic, "IMG_1.HEIC"))))
        elif door == "data":
            result = alice.result(alice.execute(loading(data_url(heic))))
        else:
            gallery = Gallery(heic)
            result = alice.result(alice.execute(loading(f"{gallery.url}/picture")))
            gallery.stop()
        assert all(abs(a - b) < 12 for a, b in zip(saved_colour(result), (200, 40, 40), strict=True))

    @pytest.mark.parametrize("door", ["id", "data", "address"])
    @pytest.mark.parametrize("node", ["LoadImage", "LoadImageMask"])
    @pytest.mark.parametrize("format_", ["PNG", "TIFF"])
    def test_a_16_bit_greyscale_image_is_not_white(self, alice, door, node, format_):
        target = BytesIO()
        Image.new("I;16", (64, 64), 30_000).save(target, format_)
        content = target.getvalue()
        gallery = Gallery(content)
        value = {"id": lambda: uploaded(alice, content), "data": lambda: data_url(content)}
        given = value.get(door, lambda: f"{gallery.url}/picture")()
        graph = loading(given)
        if node == "LoadImageMask":
            graph["1"] = {"class_type": node, "inputs": {"image": given, "channel": "red"}}
            graph["3"] = {"class_type": "MaskToImage", "inputs": {"mask": ["1", 0]}}
            graph["2"]["inputs"]["images"] = ["3", 0]
        try:
            assert saved_colour(alice.result(alice.execute(graph))) == (117, 117, 117)
        finally:
            gallery.stop()

    def test_a_damaged_image_by_url_is_rejected_too(self, alice):
        gallery = Gallery(picture()[:40])
        result = alice.result(alice.execute(loading(f"{gallery.url}/picture")))
        gallery.stop()
        assert "this image/png can not be read as a picture: it is damaged" in result["error"]

    @pytest.mark.parametrize("content, type_", OTHERS)
    def test_a_url_that_is_not_an_image_is_rejected_too(self, alice, content, type_):
        gallery = Gallery(content)
        result = alice.result(alice.execute(loading(f"{gallery.url}/picture")))
        gallery.stop()
        assert result["status"] == "failed"
        assert f"a picture is needed here, not {type_}" in result["error"]

    def test_the_submitted_workflow_is_kept_unchanged(self, alice):
        workflow = loading(data_url(picture()))
        execution_id = alice.execute(workflow)
        alice.result(execution_id)
        assert alice.get(f"/workflows/{execution_id}?include=workflow").json()["workflow"] == workflow

    @pytest.mark.parametrize(
        "page, reason",
        [("missing", "its server responded with 404"), ("page", "a picture is needed here, not text/html")],
    )
    def test_a_url_that_returns_no_image_fails_the_execution(self, alice, gallery, page, reason):
        result = alice.result(alice.execute(loading(f"{gallery.url}/{page}")))
        assert result["status"] == "failed"
        assert reason in result["error"]
        assert "'image' of Node 1 (LoadImage)" in result["error"]
        assert result["error_details"]["type"] == "input_unavailable"

    def test_an_internal_address_fails_the_execution(self, alice, gallery):
        result = alice.result(alice.execute(loading(f"{gallery.url}/inside")))
        assert result["status"] == "failed"
        assert "not one of the public internet" in result["error"]


class TestSubmission:
    @pytest.mark.parametrize("content, type_", OTHERS)
    @pytest.mark.parametrize("door", ["id", "data"])
    def test_a_file_that_is_not_an_image_is_rejected_at_submission(self, alice, door, content, type_):
        value = uploaded(alice, content) if door == "id" else data_url(content)
        detail = refusal(alice, loading(value))
        assert (detail["code"], detail["field"]) == ("UNSUPPORTED_TYPE", "workflow.1.inputs.image")
        assert f"A picture is needed here, not {type_}" in detail["message"]

    # Named, since the processes of a run must find tests of the same names, and each makes another picture.
    @pytest.mark.parametrize(
        "content", [picture()[:40], b"II*\x00\x08\x00\x00\x00" + bytes(60)], ids=["png", "tiff"]
    )
    @pytest.mark.parametrize("door", ["id", "data"])
    def test_a_damaged_image_is_rejected_at_submission(self, alice, door, content):
        value = uploaded(alice, content) if door == "id" else data_url(content)
        detail = refusal(alice, loading(value))
        assert (detail["code"], detail["field"]) == ("UNSUPPORTED_TYPE", "workflow.1.inputs.image")
        assert "can not be read as a picture: it is damaged" in detail["message"]

    def test_a_missing_file_is_a_mistake_under_its_path(self, alice):
        detail = refusal(alice, loading("file_" + "0" * 32))
        assert (detail["code"], detail["field"]) == ("FILE_NOT_FOUND", "workflow.1.inputs.image")

    def test_a_foreign_file_is_a_mistake(self, stack, alice):
        file_id = uploaded(stack.person("bob"), picture())
        assert refusal(alice, loading(file_id))["code"] == "FILE_NOT_FOUND"

    def test_an_expired_file_is_a_mistake(self, stack, alice):
        file_id = uploaded(alice, picture())
        stack.sql("UPDATE files_file SET expires_at = now() - interval '1 second' WHERE id = %s", file_id)
        assert refusal(alice, loading(file_id))["code"] == "FILE_NOT_FOUND"

    @pytest.mark.parametrize(
        "value, code",
        [
            ("http://127.0.0.1\\@example.com/", "INVALID_URL"),
            ("http://127.0.0.2/cat.png", "INVALID_URL"),
            ("https://user:secret@example.com/cat.png", "INVALID_URL"),
            ("data:image/png;base64", "INVALID_DATA_URL"),
            ("data:image/png;base64,%%%", "INVALID_DATA_URL"),
            ("data:image/png;base64,", "UNSUPPORTED_TYPE"),
            (f"data:image/png;base64,{base64.b64encode(b'<svg/>').decode()}", "UNSUPPORTED_TYPE"),
            ("comfyserve-input:file_1", "INVALID_VALUE"),
        ],
    )
    def test_an_unusable_value_is_an_error(self, alice, value, code):
        detail = refusal(alice, loading(value))
        assert (detail["code"], detail["field"]) == (code, "workflow.1.inputs.image")

    def test_a_text_that_only_looks_like_one_is_left_alone(self, stack, alice):
        workflow = {
            "1": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
            "2": {
                "class_type": "SaveImage",
                "inputs": {"images": ["1", 0], "filename_prefix": "https://example.com/"},
            },
        }
        execution_id = alice.execute(workflow)
        [[prompt]] = stack.sql(
            "SELECT prompt FROM workflows_graph WHERE execution_id::text = %s", execution_id
        )
        assert prompt["2"]["inputs"]["filename_prefix"] == "https://example.com/"
        alice.post(f"/workflows/{execution_id}/cancel")

    def test_a_file_that_a_waiting_execution_needs_stays(self, alice):
        file_id = uploaded(alice, picture())
        execution_id = alice.execute(loading(file_id))
        refused = alice.session.delete(f"{alice.url}/files/{file_id}", timeout=10)
        assert (refused.status_code, refused.json()["error"]) == (409, "conflict")
        alice.post(f"/workflows/{execution_id}/cancel")
        assert alice.session.delete(f"{alice.url}/files/{file_id}", timeout=10).status_code == 200
