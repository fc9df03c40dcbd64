"""ComfyUI's `/api/jobs`, as `comfy_execution/jobs.py` and the routes of its newer versions answer."""

from __future__ import annotations

import time
import uuid
from typing import Any

import pytest

from script.harness import graphs
from script.harness.stack import Person, Stack
from script.harness.waiting import wait_for

JOBS = "/comfyui/api/jobs"


def submitted(person: Person, number: int, workflow_id: str | None = None) -> str:
    info = {"extra_pnginfo": {"workflow": {"id": workflow_id, "nodes": []}}} if workflow_id else {}
    body = {"prompt": graphs.colour(number), "extra_data": info}
    return str(person.post("/comfyui/prompt", body).json()["prompt_id"])


def ids(person: Person, **query: Any) -> list[str]:
    return [job["id"] for job in person.get(JOBS, params=query).json()["jobs"]]


def test_jobs_are_filtered_sorted_and_paged(bare_stack: Stack):
    person, other = bare_stack.person(), bare_stack.person()
    workflow = str(uuid.uuid4())
    made = [submitted(person, number, workflow if number == 1 else None) for number in range(4)]
    foreign = submitted(other, 9, workflow)
    person.post("/comfyui/queue", {"delete": made[:2]})
    assert ids(person) == ids(person, sort_order="DESC") == made[::-1]
    assert ids(person, sort_order="asc") == ids(person, sort_order="asc", sort_by="created_at") == made
    assert ids(person, status="pending") == made[:1:-1]
    assert ids(person, status="cancelled") == made[1::-1]
    assert ids(person, status="Cancelled, in_progress") == made[1::-1]
    assert ids(person, status="completed,failed") == []
    assert ids(person, workflow_id=workflow) == [made[1]]
    assert ids(person, workflow_id=workflow, status="pending") == ids(person, workflow_id="else") == []
    page = person.get(JOBS, params={"limit": 2, "offset": 1}).json()
    assert [job["id"] for job in page["jobs"]] == made[2:0:-1]
    assert page["pagination"] == {"offset": 1, "limit": 2, "total": 4, "has_more": True}
    last = person.get(JOBS, params={"limit": 1000, "offset": 3}).json()
    assert last["pagination"] == {"offset": 3, "limit": 200, "total": 4, "has_more": False}
    assert ids(other) == [foreign]
    person.post("/comfyui/history", {"clear": True})
    assert ids(person) == made[:1:-1]
    assert person.get(f"{JOBS}/{made[0]}").status_code == 404
    person.post("/comfyui/queue", {"clear": True})


@pytest.mark.parametrize(
    "query, message",
    [
        ({"status": "done"}, "Invalid status value(s): done"),
        ({"sort_by": "name"}, "sort_by must be 'created_at' or 'execution_duration'"),
        ({"sort_order": "up"}, "sort_order must be 'asc' or 'desc'"),
        ({"limit": "0"}, "limit must be a positive integer"),
        ({"limit": "many"}, "limit must be an integer"),
        ({"offset": "x"}, "offset must be an integer"),
    ],
)
def test_mistakes_in_the_query_are_named(bare_stack: Stack, query: dict[str, str], message: str):
    answer = bare_stack.person().get(JOBS, params=query)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(message)


def test_jobs_are_cancelled_once_and_by_their_user(bare_stack: Stack):
    person, other = bare_stack.person(), bare_stack.person()
    first, second, third = (submitted(person, number) for number in range(3))
    assert other.post(f"{JOBS}/{first}/cancel").json() == {"cancelled": False}
    assert person.post(f"{JOBS}/{first}/cancel").json() == {"cancelled": True}
    assert person.post(f"{JOBS}/{first}/cancel").json() == {"cancelled": False}
    for unknown in (str(uuid.uuid4()), "nothing"):
        assert person.post(f"{JOBS}/{unknown}/cancel").json() == {"cancelled": False}
    several = {"job_ids": [first, second, str(uuid.uuid4())]}
    assert other.post(f"{JOBS}/cancel", several).json() == {"cancelled": False}
    assert person.post(f"{JOBS}/cancel", several).json() == {"cancelled": True}
    assert person.post(f"{JOBS}/cancel", several).json() == {"cancelled": False}
    mistakes: list[Any] = [None, "all", ["x"], [{}], [third] * 101]
    for wrong in mistakes:
        answer = person.post(f"{JOBS}/cancel", {"job_ids": wrong})
        assert (answer.status_code, type(answer.json()["error"])) == (400, str)
    assert ids(person, status="pending") == [third]
    assert person.get(f"{JOBS}/{third}").json()["status"] == "pending"
    person.post("/comfyui/queue", {"clear": True})


def test_a_job_shows_its_outputs_its_times_and_its_workflow(gpu_worker: Any):
    person = gpu_worker.person()
    prompt = graphs.colour(0x123456)
    prompt["3"] = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    prompt["4"] = {"class_type": "PreviewAny", "inputs": {"source": "a text"}}
    info = {"extra_pnginfo": {"workflow": {"id": "of-mine", "nodes": []}}, "api_key_comfy_org": "a secret"}
    prompt_id = person.post("/comfyui/prompt", {"prompt": prompt, "extra_data": info}).json()["prompt_id"]

    def ended() -> Any:
        answer = person.get(f"{JOBS}/{prompt_id}")
        return answer if answer.json()["status"] == "completed" else None

    answer = wait_for(ended, seconds=60, what="the end of the job")
    job = answer.json()
    assert "a secret" not in answer.text
    assert job["workflow"] == {"prompt": prompt, "extra_data": {"extra_pnginfo": info["extra_pnginfo"]}}
    assert (job["workflow_id"], job["outputs_count"], job["previewable_outputs_count"]) == ("of-mine", 2, 2)
    [saved] = job["outputs"]["2"]["images"]
    assert job["preview_output"] == {**saved, "nodeId": "2", "mediaType": "images"}
    assert person.get("/comfyui/view", params=saved).ok
    assert job["create_time"] <= job["execution_start_time"] <= job["execution_end_time"]
    assert job["execution_status"]["status_str"] == "success"
    [listed] = person.get(JOBS, params={"status": "completed", "workflow_id": "of-mine"}).json()["jobs"]
    assert listed == {
        key: job[key] for key in job.keys() - {"outputs", "workflow", "execution_status"}
    }  # fmt: skip
    assert gpu_worker.person().get(f"{JOBS}/{prompt_id}").json() == {"error": "Job not found"}


def test_a_failed_job_says_why_and_a_running_one_is_cancelled(gpu_worker: Any):
    person = gpu_worker.person()
    image = {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}}
    broken = {"1": image, "2": {"class_type": "TestFail", "inputs": {"image": ["1", 0], "message": "no"}}}
    broken["3"] = {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}}
    failing = person.post("/comfyui/prompt", {"prompt": broken}).json()["prompt_id"]
    wait_for(lambda: ids(person, status="failed"), seconds=60, what="the failure")
    [job] = person.get(JOBS, params={"status": "failed"}).json()["jobs"]
    assert (job["id"], job["execution_error"]["node_id"]) == (failing, "2")
    assert job["execution_error"]["exception_message"]
    sleeping = person.post("/comfyui/prompt", {"prompt": graphs.sleep(60, seed=uuid.uuid4().int % 2**32)})
    prompt_id = sleeping.json()["prompt_id"]
    wait_for(lambda: ids(person, status="in_progress"), seconds=60, what="the start")
    failed_in = job["execution_end_time"] - job["execution_start_time"]  # milliseconds
    time.sleep(failed_in / 1000 + 0.5)  # so that it runs for longer
    assert person.post(f"{JOBS}/{prompt_id}/cancel").json() == {"cancelled": True}
    assert ids(person, status="in_progress") == []
    assert ids(person, sort_by="execution_duration")[0] == prompt_id
    assert ids(person, sort_by="execution_duration", sort_order="asc")[0] == failing
