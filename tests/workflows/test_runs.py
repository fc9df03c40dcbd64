"""Workflows on a real ComfyUI: outputs, progress, logs, failures."""

from __future__ import annotations

import json
import uuid
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from script.harness import graphs
from script.harness.waiting import wait_for

REFERENCE_EXAMPLE = Path(__file__).with_name("reference_example.json")


@pytest.fixture
def person(gpu_worker):
    return gpu_worker.person()


def picture(output: dict[str, Any]) -> Image.Image:
    answer = requests.get(output["url"], timeout=30)
    assert answer.status_code == 200, answer.text
    return Image.open(BytesIO(answer.content))


def messages(person, execution_id: str) -> list[str]:
    answer = person.get(f"/workflows/{execution_id}/logs", params={"tail": 1000})
    return [line["message"] for line in answer.json()["logs"]]


def test_the_picture_is_the_one_that_was_asked_for(person):
    result = person.result(person.execute(graphs.colour(0x3366CC)))
    assert picture(result["outputs"]["images"][0]).getpixel((0, 0)) == (0x33, 0x66, 0xCC)


def test_a_thumbnail_exists_before_it_is_requested(person, stack):
    [image] = person.result(person.execute(graphs.colour(0x3366CD)))["outputs"]["images"]
    assert image["thumbnail_url"]
    query = "SELECT thumbnail_key FROM files_file WHERE id = %s AND thumbnail_key <> ''"
    [[key]] = wait_for(lambda: stack.sql(query, image["file_id"]), what="its thumbnail")
    assert key.startswith("thumbnails/")
    assert person.get(f"/files/{image['file_id']}/thumbnail").headers["Content-Type"] == "image/webp"


def test_a_repeated_workflow_makes_its_own_file_again(person):
    first = person.result(person.execute(graphs.colour(0x112233)))
    second = person.result(person.execute(graphs.colour(0x112233)))
    [one], [other] = first["outputs"]["images"], second["outputs"]["images"]
    assert one["file_id"] != other["file_id"]
    assert picture(other).getpixel((0, 0)) == (0x11, 0x22, 0x33)


def test_the_user_sees_the_plain_file_name_and_subfolder(person):
    result = person.result(person.execute(graphs.colour(1, prefix="series/shot")))
    [output] = result["outputs"]["images"]
    assert output["filename"] == "shot_00001_.png"
    assert output["subfolder"] == "series"


def test_the_result_has_every_documented_field(person):
    result = person.result(person.execute(graphs.txt2img(), metadata={"user_tag": "batch_001"}))
    assert result["status"] == "completed"
    assert result["error"] is None
    assert result["duration_seconds"] > 0
    assert result["started_at"] < result["completed_at"]
    assert result["metadata"]["user_tag"] == "batch_001"
    assert result["metadata"]["model_used"] == "tiny-sd15.safetensors"
    said = [line["message"] for line in result["logs"]]
    assert "Starting workflow execution" in said
    assert said[-1] == "Workflow completed successfully"
    assert {"timestamp", "level", "message"} <= set(result["logs"][0])


def test_logs_name_the_worker_the_model_and_each_node(person):
    # Another text, so that the nodes are not in ComfyUI's cache; enough steps to see them begin.
    execution_id = person.execute(graphs.txt2img(steps=30, seed=77, text="a log of its own"))
    person.result(execution_id)
    said = messages(person, execution_id)
    assert any(message.startswith("Taken by worker ") for message in said)
    assert "Running Sampler" in said
    assert "Running SaveImage" in said


def test_logs_are_filtered_by_level_and_counted(person):
    execution_id = person.execute(graphs.colour(5))
    person.result(execution_id)
    everything = person.get(f"/workflows/{execution_id}/logs").json()
    assert everything["filtered"] is False
    assert everything["total_count"] == len(everything["logs"]) > 1
    tail = person.get(f"/workflows/{execution_id}/logs", params={"tail": 1}).json()
    assert tail["logs"] == everything["logs"][-1:]
    assert tail["total_count"] == everything["total_count"]
    errors = person.get(f"/workflows/{execution_id}/logs", params={"level": "ERROR"}).json()
    assert errors["logs"] == []
    assert errors["total_count"] == 0
    assert errors["filtered"] is True


def test_progress_never_runs_backwards_and_ends_at_a_hundred(person, comfyui):
    gate = uuid.uuid4().hex
    execution_id = person.execute(graphs.gate(gate, steps=1000))
    seen: list[dict[str, Any]] = []

    def look() -> dict[str, Any]:
        seen.append(person.get(f"/workflows/{execution_id}/status").json())
        return seen[-1]

    def is_sampling(status: dict[str, Any]) -> bool:
        progress = status["progress"]
        return progress["current_node"] == "1" and 0 < progress["percentage"] < 100

    wait_for(lambda: is_sampling(look()), seconds=30, what="a step")
    comfyui.open_gate(gate)
    wait_for(lambda: look()["status"] not in ("pending", "running"), seconds=30, what="the end")
    percentages = [status["progress"]["percentage"] for status in seen]
    assert percentages == sorted(percentages)
    sampling = next(status for status in seen if is_sampling(status))
    assert sampling["progress"]["eta_seconds"] is not None
    assert sampling["estimated_completion"] is not None
    last = seen[-1]["progress"]
    assert last["percentage"] == 100.0
    assert last["current_step"] == last["total_steps"] > 1000
    assert last["eta_seconds"] is None


def test_the_references_example_is_accepted_and_fails_with_an_explanation(person):
    answer = person.post("/workflows/execute", json.loads(REFERENCE_EXAMPLE.read_text()))
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "pending"
    result = person.result(answer.json()["execution_id"])
    assert result["status"] == "failed"
    assert "no output node" in result["error"]
    assert "SaveImage" in result["error"]


def test_a_missing_model_fails_with_its_name_and_node(person):
    workflow = graphs.txt2img()
    workflow["1"]["inputs"]["ckpt_name"] = "nope.safetensors"
    result = person.result(person.execute(workflow))
    assert result["status"] == "failed"
    assert "Node 1 (CheckpointLoaderSimple): the model 'nope.safetensors' is not installed" in result["error"]
    [error] = result["error_details"]["node_errors"]["1"]["errors"]
    assert error["type"] == "value_not_in_list"
    assert error["input"] == "ckpt_name"


def test_an_unknown_node_fails_with_its_class(person):
    workflow = graphs.colour(1)
    workflow["3"] = {"class_type": "NoSuchNode", "inputs": {"image": ["1", 0]}}
    result = person.result(person.execute(workflow))
    assert result["status"] == "failed"
    assert "NoSuchNode" in result["error"]


def test_a_value_out_of_range_fails_with_the_range(person):
    result = person.result(person.execute(graphs.txt2img(steps=20_000)))
    assert result["status"] == "failed"
    assert "input 'steps' is 20000; 1 to 10000 is allowed" in result["error"]


def test_an_error_in_mid_run_names_its_node_and_keeps_what_was_written(person):
    workflow = graphs.colour(0xABCDEF)
    workflow["3"] = {"class_type": "TestFail", "inputs": {"image": ["1", 0], "message": "it broke"}}
    workflow["4"] = {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "never"}}
    execution_id = person.execute(workflow)
    result = person.result(execution_id)
    assert result["status"] == "failed"
    assert result["error"] == "Node 3 (TestFail) failed: it broke"
    assert result["error_details"]["node_id"] == "3"
    assert result["error_details"]["class_type"] == "TestFail"
    assert "traceback" not in json.dumps(result["error_details"])
    failed = person.get(f"/workflows/{execution_id}/logs", params={"level": "ERROR"}).json()["logs"]
    assert failed[0]["node_id"] == "3"
    lines = person.get(f"/workflows/{execution_id}/logs").json()["logs"]
    assert {tuple(line) for line in lines} == {("timestamp", "level", "message", "node_id")}
    assert None in {line["node_id"] for line in lines}, "a line about no node has the key as well"
    written = result["outputs"].get("images", [])
    for output in written:
        assert picture(output).getpixel((0, 0)) == (0xAB, 0xCD, 0xEF)


def test_errors_carry_no_server_paths(person):
    workflow = graphs.colour(
        1, prefix="x" * 300
    )  # longer than a file's name may be: its path is in the error
    result = person.result(person.execute(workflow))
    assert result["status"] == "failed"
    assert "/output" not in json.dumps(result)
    assert "/tmp" not in json.dumps(result)


def test_a_partly_accepted_workflow_runs_and_names_the_dropped_nodes(person):
    workflow = graphs.colour(0x00FF00)
    workflow["3"] = {"class_type": "SaveImage", "inputs": {"filename_prefix": "lost"}}
    execution_id = person.execute(workflow)
    result = person.result(execution_id)
    assert result["status"] == "completed"
    assert len(result["outputs"]["images"]) == 1
    warnings = person.get(f"/workflows/{execution_id}/logs", params={"level": "WARNING"}).json()["logs"]
    assert any("Left out output 3" in line["message"] and "images" in line["message"] for line in warnings)
    assert any("Left out output 3" in warning for warning in result["warnings"])


def test_every_kind_of_output_is_listed_by_kind(person):
    workflow = graphs.colour(0x0000FF)
    workflow |= {
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        "4": {
            "class_type": "SaveAnimatedWEBP",
            "inputs": {
                "images": ["1", 0], "filename_prefix": "moving", "fps": 6.0, "lossless": True,
                "quality": 80, "method": "default",
            },
        },
        "5": {
            "class_type": "SaveWEBM",
            "inputs": {
                "images": ["1", 0], "filename_prefix": "film", "codec": "vp9", "fps": 6.0, "crf": 32.0,
            },
        },
        "6": {"class_type": "PreviewAny", "inputs": {"source": "some words"}},
    }  # fmt: skip
    result = person.result(person.execute(workflow))
    assert result["status"] == "completed", result
    outputs = result["outputs"]
    assert sorted(image["node_id"] for image in outputs["images"]) == ["2", "3", "4"]
    assert [image["temporary"] for image in outputs["images"] if image["node_id"] == "3"] == [True]
    [film] = outputs["videos"]
    assert film["content_type"] == "video/webm"
    assert (film["width"], film["height"]) == (16, 16)
    assert film["duration_seconds"] > 0
    assert outputs["texts"] == [{"node_id": "6", "text": "some words"}]


def test_outputs_stand_in_the_order_of_the_graph(person):
    graph = graphs.colour(1)
    for number in range(3, 13):
        graph[str(number)] = {
            **graph["2"],
            "inputs": {**graph["2"]["inputs"], "filename_prefix": f"n{number}"},
        }
    for seed in (11, 12, 13):
        graph["1"]["inputs"]["color"] = seed
        result = person.result(person.execute(graph))
        assert [image["node_id"] for image in result["outputs"]["images"]] == [str(n) for n in range(2, 13)]


def test_the_duration_of_a_run_is_the_estimate_of_the_next(person):
    workflow = graphs.txt2img(steps=7, seed=1)
    assert person.post("/workflows/execute", {"workflow": workflow}).json()["estimated_duration"] is None
    person.execute(workflow)
    waiting = person.execute(graphs.txt2img(steps=7, seed=2))
    person.result(waiting)
    estimated = person.post("/workflows/execute", {"workflow": graphs.txt2img(steps=7, seed=3)}).json()
    assert 0 < estimated["estimated_duration"] < 60
