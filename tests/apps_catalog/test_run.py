"""POST /apps/{app}/run: named values become a graph in the queue; errors are reported by name."""

from __future__ import annotations

from typing import Any

import pytest

from script.harness import graphs
from tests.apps_catalog.test_apps import saved
from tests.factories import assert_error, mistakes
from workflows.models import Execution, Graph

INPUTS = [
    {"name": "about", "node": "2", "input": "text", "type": "text", "required": True},
    {"name": "seed", "node": "5", "input": "seed"},
    {"name": "steps", "node": "5", "input": "steps", "minimum": 1, "maximum": 10},
    {"name": "sampler", "node": "5", "input": "sampler_name", "type": "choice"},
]


@pytest.fixture
def app(alice, worker):
    return saved(alice, inputs=INPUTS, visibility="everybody", outputs=[{"name": "picture", "node": "7"}])


def refused(api: Any, inputs: Any) -> dict[str, str]:
    response = api.post("/apps/alice/portrait/run", {"inputs": inputs})
    body = assert_error(response, 400, "validation_error")
    assert Execution.objects.count() == 0
    return mistakes(body)


def test_values_go_where_they_belong_and_defaults_fill_the_rest(bob, app):
    response = bob.post("/apps/alice/portrait/run", {"inputs": {"about": "a cat", "seed": 7}})
    assert response.status_code == 200, response.content
    body = response.json()
    assert (body["app"], body["version"], body["status"]) == ("alice/portrait", 1, "pending")
    assert body["inputs"] == {"about": "a cat", "seed": 7, "steps": 4, "sampler": "euler"}
    prompt = Graph.objects.get(execution_id=body["execution_id"]).prompt
    assert prompt["2"]["inputs"]["text"] == "a cat"
    assert prompt["5"]["inputs"]["seed"] == 7
    assert prompt["5"]["inputs"]["steps"] == 4


def test_an_omitted_seed_is_drawn_and_returned(bob, app):
    seeds = {
        bob.post("/apps/alice/portrait/run", {"inputs": {"about": "x"}}).json()["inputs"]["seed"]
        for _ in range(3)
    }
    assert len(seeds) == 3
    assert all(0 <= seed < 2**53 for seed in seeds)
    execution = Execution.objects.select_related("graph").latest("created_at")
    assert execution.graph.prompt["5"]["inputs"]["seed"] in seeds


def test_all_errors_are_reported_under_the_inputs_names(bob, app):
    found = refused(bob, {"seed": "7", "steps": 11, "sampler": "eulr", "stpes": 3})
    assert found == {
        "inputs.about": "REQUIRED_FIELD",
        "inputs.seed": "INVALID_TYPE",
        "inputs.steps": "INVALID_VALUE",
        "inputs.sampler": "INVALID_VALUE",
        "inputs.stpes": "UNKNOWN_FIELD",
    }


@pytest.mark.parametrize("value", [7, True, ["2", 0], {"a": 1}])
def test_a_value_of_another_type_never_reaches_the_graph(bob, app, value):
    assert refused(bob, {"about": value}) == {"inputs.about": "INVALID_TYPE"}


def test_a_near_choice_is_named(bob, app):
    response = bob.post("/apps/alice/portrait/run", {"inputs": {"about": "x", "sampler": "eulr"}})
    assert "did you mean 'euler'?" in response.json()["details"][0]["message"]


def test_a_pinned_version_runs_as_it_was(alice, bob, app):
    alice("patch", "/apps/portrait", {"workflow": graphs.txt2img(text="other"), "inputs": []})
    body = bob.post("/apps/alice/portrait@1/run", {"inputs": {"about": "x"}}).json()
    assert body["version"] == 1
    newest = bob.post("/apps/alice/portrait/run", {}).json()
    assert (newest["version"], newest["inputs"]) == (2, {})


def test_the_result_says_what_ran_with_which_values(bob, app):
    id_ = bob.post("/apps/alice/portrait/run", {"inputs": {"about": "x", "seed": 1}}).json()["execution_id"]
    result = bob.get(f"/workflows/{id_}").json()
    assert (result["app"], result["version"]) == ("alice/portrait", 1)
    assert result["inputs"]["about"] == "x"
    assert result["named_outputs"] == {"picture": []}
    [listed] = bob.get("/workflows/", data={"app": "alice/portrait"}).json()
    assert listed["app"] == "alice/portrait"
    assert bob.get("/workflows/", data={"app": "alice/other"}).json() == []


def test_a_hidden_graph_is_not_in_the_result(alice, bob, app):
    for api, may in ((bob, False), (alice, True)):
        id_ = api.post("/apps/alice/portrait/run", {"inputs": {"about": "x"}}).json()["execution_id"]
        shown = api.get(f"/workflows/{id_}", data={"include": "workflow"}).json()["workflow"]
        assert (shown is not None) == may


def test_a_retry_is_of_the_same_app(bob, app):
    id_ = bob.post("/apps/alice/portrait/run", {"inputs": {"about": "x"}}).json()["execution_id"]
    assert bob.post(f"/workflows/{id_}/cancel").status_code == 200
    again = bob.post(f"/workflows/{id_}/retry").json()["execution_id"]
    result = bob.get(f"/workflows/{again}").json()
    assert (result["app"], result["inputs"]["about"]) == ("alice/portrait", "x")


def test_the_same_key_runs_it_once(bob, app):
    sent = {"inputs": {"about": "x"}}
    answers = [
        bob.post("/apps/alice/portrait/run", sent, headers={"Idempotency-Key": "k"}).json() for _ in range(2)
    ]
    assert answers[0] == answers[1]
    assert Execution.objects.count() == 1


def test_options_are_those_of_execute(bob, app):
    sent = {"inputs": {"about": "x"}, "priority": "high", "metadata": {"a": 1}, "timeout_minutes": 5}
    assert bob.post("/apps/alice/portrait/run", sent).status_code == 200
    execution = Execution.objects.get()
    assert (execution.priority, execution.metadata, execution.timeout_minutes) == ("high", {"a": 1}, 5)


def test_a_data_url_is_stored_and_its_id_returned(alice):
    workflow = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }
    app = saved(alice, workflow=workflow)
    assert [(each["name"], each["type"], each["required"]) for each in app["inputs"]] == [
        ("image", "image", True)
    ]
    picture = (
        "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9"
        "awAAAABJRU5ErkJggg=="
    )
    body = alice.post("/apps/portrait/run", {"inputs": {"image": picture}}).json()
    assert body["inputs"]["image"].startswith("file_")
    response = alice.post("/apps/portrait/run", {"inputs": {"image": "example.png"}})
    assert mistakes(assert_error(response, 400, "validation_error")) == {"inputs.image": "INVALID_VALUE"}
    gone = alice.post("/apps/portrait/run", {"inputs": {"image": "file_gone"}})
    assert mistakes(assert_error(gone, 400, "validation_error")) == {"inputs.image": "FILE_NOT_FOUND"}


def test_a_batch_of_an_app_by_the_names_of_its_inputs(bob, app):
    sent = {"grid": {"about": ["a cat", "a dog"], "seed": [1, 2, 3]}}
    batch = bob.post("/apps/alice/portrait/batch", sent).json()
    assert (batch["total"], batch["app"]) == (6, "alice/portrait")
    members = bob.get(f"/workflows/batches/{batch['batch_id']}").json()["executions"]
    assert members[5]["inputs"] == {"about": "a dog", "seed": 3, "steps": 4, "sampler": "euler"}
    assert bob.get(f"/workflows/{members[0]['execution_id']}").json()["app"] == "alice/portrait"


def test_errors_of_a_batch_are_reported_by_number_and_name(bob, app):
    sent = {"inputs": [{"about": "x"}, {"about": 7}, {"steps": 3}]}
    body = assert_error(bob.post("/apps/alice/portrait/batch", sent), 400, "validation_error")
    assert mistakes(body) == {"inputs.1.about": "INVALID_TYPE", "inputs.2.about": "REQUIRED_FIELD"}
    assert Execution.objects.count() == 0
