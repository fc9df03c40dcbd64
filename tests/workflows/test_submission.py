"""POST /workflows/execute: what is accepted, and what is rejected by field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from script.harness import graphs
from tests.factories import assert_error, make_user
from workflows.fleet import registry
from workflows.models import Execution, Worker
from workflows.presentation import selectors
from workflows.queue import submission
from workflows.webhooks import outbox

REFERENCE = json.loads(Path(__file__).with_name("reference_example.json").read_text())


@pytest.fixture(autouse=True)
def clear_caches():
    """Caches hold what other tests stored."""
    selectors.cached_pending_count.forget()
    registry.cached_any_alive.forget()


def refused(alice: Any, workflow: Any) -> dict[str, tuple[str, str]]:
    """field -> (code, message) of each mistake."""
    response = alice.post("/workflows/execute", {"workflow": workflow})
    body = assert_error(response, 400, "validation_error")
    assert Execution.objects.count() == 0
    return {detail["field"]: (detail["code"], detail["message"]) for detail in body["details"]}


def test_the_references_example_is_accepted(alice):
    response = alice.post("/workflows/execute", REFERENCE)
    assert response.status_code == 200, response.content
    body = response.json()
    assert body["status"] == "pending"
    assert body["queue_position"] == 1
    assert body["estimated_duration"] is None
    assert body["created_at"]


def test_comfyuis_own_format_is_accepted(alice):
    assert alice.post("/workflows/execute", {"workflow": graphs.txt2img()}).status_code == 200


def test_both_formats_become_the_same_prompt(alice):
    ours = {
        "nodes": {
            "1": {
                "id": "1",
                "class_type": "EmptyImage",
                "inputs": [{"name": "width", "type": "INT", "value": 8}],
            }
        }
    }
    theirs = {"1": {"class_type": "EmptyImage", "inputs": {"width": 8}}}
    for workflow in (ours, theirs):
        assert alice.post("/workflows/execute", {"workflow": workflow}).status_code == 200
    first, second = Execution.objects.select_related("graph").order_by("created_at")
    assert first.graph.prompt == second.graph.prompt
    assert first.kind == second.kind


def test_the_submitted_workflow_is_returned_on_request(alice):
    answer = alice.post("/workflows/execute", REFERENCE).json()
    path = f"/workflows/{answer['execution_id']}"
    assert alice.get(path, data={"include": "workflow"}).json()["workflow"] == REFERENCE["workflow"]
    assert "workflow" not in alice.get(path).json()


@pytest.mark.django_db
def test_the_execution_is_what_was_stored():
    """Its statement writes every column itself."""
    user, retried = make_user("ada"), uuid4()
    works = [submission.read(graphs.colour(n), user=user) for n in (1, 2)]
    accepted = submission.submit_works(
        user=user,
        prepared=submission.prepare(works, user=user),
        retried_from=[retried, None], positions=[3, 4], priority="high", timeout_minutes=7,
        metadata={"a": [None, 1.5]}, metadata_text='{"a": [null, 1.50]}',
        webhook=outbox.WebhookRequest(url="https://example.org/hook", events=[], base=""),
    )  # fmt: skip
    for execution, stored in zip(accepted[0], Execution.objects.order_by("turn"), strict=True):
        for field in Execution._meta.concrete_fields:
            assert getattr(stored, field.attname) == getattr(execution, field.attname), field.name


def test_without_a_worker_the_answer_says_so(alice):
    body = alice.post("/workflows/execute", {"workflow": graphs.colour(1)}).json()
    assert "No GPU worker" in body["note"]


def test_with_a_worker_there_is_no_note(alice):
    Worker.objects.create(name="gpu", host="here", pid=1, url="http://127.0.0.1:1")
    assert "note" not in alice.post("/workflows/execute", {"workflow": graphs.colour(1)}).json()


def test_no_workflow_at_all(alice):
    response = alice.post("/workflows/execute", {"priority": "urgent"})
    body = assert_error(response, 400, "validation_error")
    found = {detail["field"]: detail for detail in body["details"]}
    assert found["workflow"]["code"] == "REQUIRED_FIELD"
    assert found["workflow"]["message"] == "Field 'workflow' is required"
    assert found["priority"]["message"] == "Priority must be one of: low, normal, high"


@pytest.mark.parametrize("workflow", [{}, {"nodes": {}}, {"metadata": {"a": 1}}])
def test_a_workflow_without_nodes(alice, workflow):
    assert refused(alice, workflow)["workflow.nodes"][0] == "REQUIRED_FIELD"


@pytest.mark.parametrize("workflow", [None, 5, "text", [1], True])
def test_a_workflow_that_is_no_object(alice, workflow):
    assert "workflow" in refused(alice, workflow)


def test_all_errors_are_reported_at_once_by_path(alice):
    workflow = {
        "nodes": {
            "1": {"id": "1", "inputs": []},
            "2": {
                "id": "9",
                "class_type": "A",
                "inputs": [{"name": "x", "value": 1}, {"name": "x", "value": 2}],
            },
            "3": {"class_type": "A", "inputs": [{"value": 1}, {"name": "y", "required": True}, 7]},
            "4": [],
        }
    }
    found = {field: code for field, (code, _) in refused(alice, workflow).items()}
    assert found == {
        "workflow.nodes.1.class_type": "REQUIRED_FIELD",
        "workflow.nodes.2.id": "INVALID_VALUE",
        "workflow.nodes.2.inputs.1.value": "DUPLICATE_INPUT",
        "workflow.nodes.3.inputs.0.name": "REQUIRED_FIELD",
        "workflow.nodes.3.inputs.1.value": "REQUIRED_FIELD",
        "workflow.nodes.3.inputs.2": "INVALID_TYPE",
        "workflow.nodes.4": "INVALID_TYPE",
    }


def test_links_to_nodes_that_do_not_exist(alice):
    workflow = {"1": {"class_type": "A", "inputs": {"a": ["7", 0], "b": ["1", -1]}}}
    found = refused(alice, workflow)
    assert found["workflow.1.inputs.a"][0] == "INVALID_LINK"
    assert "node '7'" in found["workflow.1.inputs.a"][1]
    assert found["workflow.1.inputs.b"][0] == "INVALID_LINK"


def test_a_circle_is_named_by_its_nodes(alice):
    workflow = {
        "1": {"class_type": "A", "inputs": {"a": ["3", 0]}},
        "2": {"class_type": "A", "inputs": {"a": ["1", 0]}},
        "3": {"class_type": "A", "inputs": {"a": ["2", 0]}},
        "4": {"class_type": "A", "inputs": {"a": ["1", 0]}},
    }
    [(code, message)] = refused(alice, workflow).values()
    assert code == "CYCLE"
    assert "1 -> 3 -> 2 -> 1" in message


def test_a_long_chain_is_no_problem(alice):
    workflow = {str(i): {"class_type": "A", "inputs": {"a": [str(i + 1), 0]}} for i in range(899)}
    workflow["899"] = {"class_type": "A", "inputs": {}}
    assert alice.post("/workflows/execute", {"workflow": workflow}).status_code == 200


def test_too_many_nodes(alice, settings):
    settings.MAX_NODES = 3
    workflow = {str(i): {"class_type": "A", "inputs": {}} for i in range(4)}
    assert refused(alice, workflow)["workflow"][0] == "TOO_MANY_NODES"


@pytest.mark.parametrize("minutes", [0, -1, 1441, 1.5, "30", True])
def test_a_time_out_out_of_range(alice, minutes):
    response = alice.post("/workflows/execute", {"workflow": graphs.colour(1), "timeout_minutes": minutes})
    body = assert_error(response, 400, "validation_error")
    assert body["details"][0]["field"] == "timeout_minutes"


def test_null_means_the_default(alice):
    sent = {
        "workflow": graphs.colour(1),
        "priority": None,
        "timeout_minutes": None,
        "metadata": None,
        "webhook_url": None,
    }
    assert alice.post("/workflows/execute", sent).status_code == 200
    execution = Execution.objects.get()
    assert (execution.priority, execution.timeout_minutes, execution.metadata) == ("normal", 30, {})


def test_a_full_queue_is_503_with_retry_after(alice, settings):
    settings.MAX_PENDING = 1
    assert alice.post("/workflows/execute", {"workflow": graphs.colour(1)}).status_code == 200
    selectors.cached_pending_count.forget()
    response = alice.post("/workflows/execute", {"workflow": graphs.colour(2)})
    assert_error(response, 503, "service_unavailable")
    assert int(response["Retry-After"]) > 0


def test_strangers_are_refused(client):
    assert client.post("/workflows/execute", {}, content_type="application/json").status_code == 401


@pytest.mark.parametrize(
    "text",
    [
        '{"b": 1e16, "a": -0.0}',
        '{ "id" : 123456789012345678901234567890 }',
        '{"nested": {"z": 1.10, "a": [1E5, "\\u00e9", "é"]}, "model_used": "mine"}',
    ],
)
def test_metadata_is_returned_as_it_was_sent(alice, text):
    body = f'{{"workflow": {json.dumps(graphs.colour(1))},\n "metadata": {text}}}'
    response = alice.post("/workflows/execute", data=body, content_type="application/json")
    execution_id = response.json()["execution_id"]
    assert f'"metadata":{text}' in alice.get(f"/workflows/{execution_id}").content.decode()
    assert f'"metadata":{text}' in alice.get("/workflows/").content.decode()


def test_the_models_are_listed_next_to_the_metadata(alice):
    body = f'{{"workflow": {json.dumps(graphs.txt2img())}, "metadata": {{"x": 1.0}}}}'
    response = alice.post("/workflows/execute", data=body, content_type="application/json")
    answer = alice.get(f"/workflows/{response.json()['execution_id']}")
    assert '"metadata":{"x": 1.0, "model_used": "tiny-sd15.safetensors"}' in answer.content.decode()
    assert answer.json()["models_used"] == ["tiny-sd15.safetensors"]


@pytest.mark.parametrize(
    "node, field, meant",
    [
        ({"class_type": "A", "input": {"a": 1}}, "workflow.1.input", "inputs"),
        ({"class_type": "A", "inputs": [{"name": "a", "valeu": 1}]}, "workflow.1.inputs.0.valeu", "value"),
    ],
)
def test_a_misspelt_key_of_a_node_is_named(alice, node, field, meant):
    code, message = refused(alice, {"1": node})[field]
    assert code == "UNKNOWN_FIELD"
    assert f"did you mean '{meant}'" in message
