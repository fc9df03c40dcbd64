"""`include=data`: the content of a result's files in the result itself."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from comfyserve.api.gate import lanes
from comfyserve.api.gate.lanes import Lane
from files import storing, threads
from files.errors import StorageUnavailable
from files.models import File
from script.harness import graphs
from workflows.models import Output
from workflows.presentation import file_data
from workflows.streaming import asgi

WAIT = {"Prefer": "wait=30"}


@pytest.fixture
def person(gpu_worker):
    return gpu_worker.person()


def waited(person: Any, graph: graphs.Graph, *, headers: dict[str, str] | None = None, **more: Any) -> Any:
    answer = person.post(
        "/workflows/execute?include=data", {"workflow": graph, **more}, headers={**WAIT, **(headers or {})}
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def files_of(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [each for group in result["outputs"].values() for each in group]


def image_of(result: dict[str, Any]) -> dict[str, Any]:
    [image] = result["outputs"]["images"]
    return image


def with_data(person: Any, execution_id: str, include: str = "data") -> dict[str, Any]:
    answer = person.get(f"/workflows/{execution_id}?include={include}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def is_downloaded(shown: dict[str, Any]) -> bool:
    return base64.b64decode(shown["data"]) == requests.get(shown["url"], timeout=30).content


def test_a_wait_is_answered_with_the_files(person):
    result = waited(person, graphs.colour(0x336699))
    assert result["status"] == "completed"
    assert is_downloaded(image_of(result))
    plain = person.get(f"/workflows/{result['execution_id']}").json()
    assert set(image_of(result)) - set(image_of(plain)) == {"data"}


def test_the_result_has_them_too_and_other_parts(person):
    execution_id = person.execute(graphs.colour(0x336698))
    person.result(execution_id)
    assert is_downloaded(image_of(with_data(person, execution_id)))
    both = with_data(person, execution_id, include="workflow,data")
    assert both["workflow"] == graphs.colour(0x336698)
    assert "data" in image_of(both)
    assert both["events_url"]


def test_a_converted_file_has_its_own_and_the_original_none(person):
    result = waited(person, graphs.colour(0x336697), output={"format": "webp"})
    image = image_of(result)
    assert is_downloaded(image["converted"])
    assert "data" not in image


def test_a_run_of_an_app_has_them_in_its_outputs(person):
    name = "app-with-data"
    body = {"name": name, "workflow": graphs.colour(0x336696), "inputs": []}
    assert person.post("/apps/", body).status_code == 201
    answer = person.post(f"/apps/{name}/run?include=data", {"inputs": {}}, headers=WAIT)
    assert answer.status_code == 200, answer.text
    assert is_downloaded(image_of(answer.json()))
    [[named]] = answer.json()["named_outputs"].values()
    assert "data" not in named


def test_a_wait_that_takes_too_long_is_answered_as_without_it(gpu_worker, comfyui, person):
    answer = person.post(
        "/workflows/execute?include=data",
        {"workflow": graphs.sleep(60, seed=31)},
        headers={"Prefer": "wait=1"},
    )
    execution_id = answer.json()["execution_id"]
    person.post(f"/workflows/{execution_id}/cancel")
    assert answer.status_code == 200
    assert "outputs" not in answer.json()
    assert with_data(person, execution_id)["outputs"] == {}


def test_a_failure_is_answered_too(person):
    graph = graphs.colour(1)
    graph["3"] = {"class_type": "TestFail", "inputs": {"image": ["1", 0], "message": "it broke"}}
    graph["2"]["inputs"]["images"] = ["3", 0]
    result = waited(person, graph)
    assert result["status"] == "failed"
    assert result["error_details"]


def test_a_file_that_is_too_large_has_only_its_url(gpu_worker, person):
    result = waited(person, graphs.colour(0x336695))
    image = image_of(result)
    gpu_worker.sql(
        "UPDATE files_file SET size = %s WHERE id = %s", file_data.LARGEST_FILE + 1, image["file_id"]
    )
    shown = image_of(with_data(person, result["execution_id"]))
    assert shown["data"] is None
    assert shown["url"]


def test_files_beyond_the_limit_of_a_result_have_only_their_url(gpu_worker, person):
    saves = {
        str(number): {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "p"}}
        for number in (2, 3, 4)
    }
    result = waited(person, {"1": graphs.colour(0x336694)["1"], **saves})
    assert all(is_downloaded(each) for each in files_of(result))
    [key] = {
        gpu_worker.sql("SELECT key FROM files_file WHERE id = %s", each["file_id"])[0][0]
        for each in files_of(result)
    }  # equal files are stored once
    path = Path(gpu_worker.env["DATA_DIR"]) / "files" / key
    large = bytes(file_data.LARGEST_RESULT * 2 // 5)
    path.write_bytes(large)
    gpu_worker.sql("UPDATE files_file SET size = %s WHERE key = %s", len(large), key)
    shown = files_of(with_data(person, result["execution_id"]))
    assert [each["data"] is not None for each in shown] == [True, True, False]
    assert base64.b64decode(shown[1]["data"]) == large


@pytest.mark.parametrize("change", ["missing", "shorter"])
def test_a_file_that_the_storage_lost_has_none(gpu_worker, person, change):
    result = waited(person, graphs.colour(0x336690 if change == "missing" else 0x336691))
    [[key]] = gpu_worker.sql("SELECT key FROM files_file WHERE id = %s", image_of(result)["file_id"])
    path = Path(gpu_worker.env["DATA_DIR"]) / "files" / key
    if change == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    assert image_of(with_data(person, result["execution_id"]))["data"] is None


def test_a_deleted_file_has_none(person):
    result = waited(person, graphs.colour(0x336692))
    deleted = person.session.delete(f"{person.url}/files/{image_of(result)['file_id']}", timeout=30)
    assert deleted.status_code == 200, deleted.text
    shown = image_of(with_data(person, result["execution_id"]))
    assert (shown["deleted"], shown["data"]) == (True, None)


def test_a_deleted_file_has_none_either_if_others_share_what_it_was_converted_to(person):
    first, second = (waited(person, graphs.colour(0x336689), output={"format": "webp"}) for _ in range(2))
    deleted = person.session.delete(f"{person.url}/files/{image_of(first)['file_id']}", timeout=30)
    assert deleted.status_code == 200, deleted.text
    shown = image_of(with_data(person, first["execution_id"]))
    assert (shown["deleted"], shown["data"]) == (True, None)
    assert is_downloaded(image_of(with_data(person, second["execution_id"]))["converted"])


def test_a_text_has_none(person):
    graph = {"1": {"class_type": "PreviewAny", "inputs": {"source": "some text"}}}
    [shown] = files_of(waited(person, graph))
    assert shown["text"] == "some text"
    assert "data" not in shown


def test_a_replay_reads_them_again_as_they_are_not_stored_with_the_key(gpu_worker, person):
    key = {"Idempotency-Key": "with-files"}
    first = waited(person, graphs.colour(0x336693), headers=key)
    again = waited(person, graphs.colour(0x336693), headers=key)
    assert again["execution_id"] == first["execution_id"]
    assert image_of(again)["data"] == image_of(first)["data"]
    [[stored]] = gpu_worker.sql(
        "SELECT answer FROM accounts_idempotencyrecord WHERE key = 'with-files' AND answer LIKE %s",
        f"%{first['execution_id']}%",
    )
    assert "outputs" not in json.loads(stored)


@pytest.mark.parametrize("include", ["", "files", "data,", "Data", "data;workflow"])
@pytest.mark.parametrize("method", ["get", "post"])
def test_an_unknown_part_is_a_mistake(stack, method, include):
    person = stack.person()
    execution_id = person.execute(graphs.colour(1))
    path = f"/workflows/{execution_id if method == 'get' else 'execute'}?include={include}"
    answer = person.get(path) if method == "get" else person.post(path, {"workflow": graphs.colour(2)})
    assert answer.status_code == 400
    assert [each["field"] for each in answer.json()["details"]] == ["include"]
    assert len(person.get("/workflows/").json()) == 1


def test_another_users_result_is_404(stack):
    execution_id = stack.person().execute(graphs.colour(1))
    answer = stack.person().get(f"/workflows/{execution_id}?include=data")
    assert answer.status_code == 404
    assert answer.json()["error"] == "not_found"


def test_no_further_file_is_opened_when_the_time_is_up(monkeypatch):
    opened: list[File] = []
    clock = SimpleNamespace(monotonic=lambda: 100.0 * len(opened))

    def hanging(stored: File) -> AbstractContextManager[None]:
        opened.append(stored)
        raise StorageUnavailable

    monkeypatch.setattr(file_data, "time", clock)
    monkeypatch.setattr(storing, "opened", hanging)
    outputs = [Output(position=at, file=File(key="outputs/00/a", size=9)) for at in range(3)]
    assert file_data.read(outputs) == {}
    assert opened == [outputs[0].file]


# -- several at once -------------------------------------------------------------------------------------
def rendered_at_once(lane: Lane, monkeypatch: pytest.MonkeyPatch, *, users: int) -> tuple[int, list[bytes]]:
    """(how many bodies were built at the same time, all bodies): two of each user are asked for at once."""
    monkeypatch.setattr(asgi, "RESULTS_WITH_FILES", lane)
    lock, both = threading.Lock(), threading.Barrier(2)
    inside, most = 0, 0

    def render(reads: bool) -> bytes:
        nonlocal inside, most
        if not reads:
            return b"without"
        with lock:
            inside += 1
            most = max(most, inside)
        both.wait(20)
        with lock:
            inside -= 1
        return b"with"

    async def all_of_them() -> list[bytes]:
        bodies = [asgi.WithFiles(user, render) for user in range(users) for _ in range(2)]
        return await asyncio.gather(*(asgi._rendered(body) for body in bodies))

    found = asyncio.run(all_of_them())
    return most, found


def test_few_are_built_at_once(monkeypatch):
    lane = Lane("files", width=lanes.RESULTS_WITH_FILES.width, waiting=50, seconds=20.0, each=16)
    assert rendered_at_once(lane, monkeypatch, users=4) == (2, [b"with"] * 8)


def test_they_are_built_by_few_threads():
    """The allocator keeps tens of MiB for each thread that has built one."""
    others = threading.Barrier(17)

    def start() -> None:
        others.wait(20)

    for _ in range(16):  # the pool of all reads and writes of files has its threads already
        threads.submit(start)
    start()
    builders = set()

    def render(_: bool) -> bytes:
        builders.add(threading.get_ident())
        return b"with"

    async def all_of_them() -> None:
        for user in range(50):
            await asgi._rendered(asgi.WithFiles(user, render))

    asyncio.run(all_of_them())
    assert len(builders) <= lanes.RESULTS_WITH_FILES.width


def test_those_that_are_too_many_have_no_files(monkeypatch):
    lane = Lane("files", width=2, waiting=2, seconds=20.0, each=1)
    most, bodies = rendered_at_once(lane, monkeypatch, users=4)
    assert most == 2
    assert bodies == [b"with", b"without"] * 4
