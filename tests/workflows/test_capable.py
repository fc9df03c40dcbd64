"""A workflow goes to the workers that have reported its nodes and models."""

from __future__ import annotations

import uuid
from datetime import timedelta

import pytest
from django.utils import timezone

from comfyui.bridge import ModelFile, ModelFolder
from models_registry import models as registry
from models_registry import reporting
from script.harness import graphs
from workflows.graph.parsing import ModelUse
from workflows.models import ObjectInfo, Worker
from workflows.queue import claims, matching, requeueing

pytestmark = pytest.mark.django_db
NODES = ("CheckpointLoaderSimple", "KSampler", "SaveImage")
TINY = "tiny-sd15.safetensors"


def files(*names: str) -> list[ModelFolder]:
    return [
        ModelFolder(
            "checkpoints", ["/m"], [ModelFile("checkpoints", name, f"/m/{name}", 1, 1.0) for name in names]
        )
    ]


def worker(name: str, *, models: tuple[str, ...] = ("other.safetensors",), nodes: tuple[str, ...] = NODES):
    registry.Host.objects.create(name=name)
    reporting.write_files(name, files(*models))
    info = ObjectInfo.objects.create(digest=uuid.uuid4().hex, body={node: {} for node in nodes})
    Worker.objects.create(name=name, host="h", pid=1, url="u", reachable=True, object_info=info)
    matching.cached_fleet.forget()


def submit(alice, workflow=None) -> str:
    answer = alice.post("/workflows/execute", {"workflow": workflow or graphs.txt2img()})
    assert answer.status_code == 200, answer.content
    return answer.json()["execution_id"]


def claimed(name: str) -> str | None:
    claim = claims.take(worker=name)
    return str(claim.execution_id) if claim else None


@pytest.fixture(autouse=True)
def nobody_yet():
    yield
    matching.cached_fleet.forget()


@pytest.fixture
def two():
    worker("has", models=(TINY,))
    worker("lacks")


def test_a_worker_without_the_model_leaves_it_to_the_one_that_has_it(alice, two):
    execution_id = submit(alice)
    assert claimed("lacks") is None
    assert claimed("has") == execution_id


def test_a_worker_without_the_node_leaves_it_to_the_one_that_has_it(alice):
    worker("has", nodes=(*NODES, "Special"))
    worker("lacks")
    workflow = graphs.colour(1) | {"3": {"class_type": "Special", "inputs": {"images": ["1", 0]}}}
    execution_id = submit(alice, workflow)
    assert claimed("lacks") is None
    assert claimed("has") == execution_id


def test_a_worker_skips_what_it_cannot_run_and_keeps_the_order(alice, two):
    first, second, third = submit(alice), submit(alice, graphs.colour(1)), submit(alice, graphs.colour(2))
    assert [claimed("lacks"), claimed("has"), claimed("has")] == [second, first, third]


def test_an_execution_whose_models_no_worker_has_may_run_anywhere(alice, two):
    workflow = graphs.txt2img()
    workflow["1"]["inputs"]["ckpt_name"] = "nowhere.safetensors"
    execution_id = submit(alice, workflow)
    assert claimed("lacks") == execution_id


def test_a_worker_without_a_reported_file_is_queried(alice, two):
    worker("silent", models=())
    execution_id = submit(alice)
    assert claimed("silent") == execution_id


def test_subfolders_as_windows_writes_them_are_the_same(alice):
    worker("has", models=("sdxl/base.safetensors",))
    worker("lacks")
    workflow = graphs.txt2img()
    workflow["1"]["inputs"]["ckpt_name"] = "sdxl\\base.safetensors"
    submit(alice, workflow)
    assert claimed("lacks") is None


def test_a_worker_that_got_the_model_takes_what_waits(alice, two):
    execution_id = submit(alice)
    reporting.write_files("lacks", files("other.safetensors", TINY))
    matching.has_more("lacks")
    assert claimed("lacks") == execution_id


def test_a_worker_that_got_another_model_does_not(alice, two):
    submit(alice)
    matching.has_more("lacks")
    assert claimed("lacks") is None


def test_it_waits_for_the_only_capable_worker_while_that_restarts(alice, two):
    submit(alice)
    Worker.objects.filter(name="has").update(heartbeat_at=timezone.now() - timedelta(days=1))
    assert matching.lift() == 0
    assert claimed("lacks") is None


def test_any_worker_tries_it_when_that_worker_does_not_return(alice, two):
    execution_id = submit(alice)
    registry.Host.objects.filter(name="has").update(reported_at=timezone.now() - timedelta(minutes=5))
    assert matching.lift() == 1
    assert claimed("lacks") == execution_id


def test_any_worker_tries_it_when_that_worker_refused_it(alice, two):
    execution_id = submit(alice)
    claim = claims.take(worker="has")
    assert claim is not None
    assert requeueing.requeue(claim, reason="it lacks it after all", exclude=True)
    assert matching.lift() == 1
    assert (claimed("has"), claimed("lacks")) == (None, execution_id)


def test_a_refusing_worker_tries_again_once_the_others_are_gone(alice):
    worker("stays")
    worker("goes")
    execution_id = submit(alice)
    claim = claims.take(worker="stays")
    assert claim is not None
    requeueing.requeue(claim, reason="this worker does not have it", exclude=True)
    matching.lift()
    assert claimed("stays") is None  # the other one may have it
    long_ago = timezone.now() - timedelta(minutes=5)
    Worker.objects.filter(name="goes").update(heartbeat_at=long_ago)
    registry.Host.objects.filter(name="goes").update(reported_at=long_ago)
    matching.lift()
    assert claimed("stays") == execution_id


@pytest.mark.parametrize("desired_state", [Worker.DesiredState.WORK, Worker.DesiredState.PAUSE])
def test_a_refusal_is_kept_while_a_live_worker_has_not_reported_its_models(alice, desired_state):
    worker("refused")
    Worker.objects.create(name="other", host="h", pid=1, url="u", reachable=True, desired_state=desired_state)
    submit(alice)
    claim = claims.take(worker="refused")
    assert claim is not None
    requeueing.requeue(claim, reason="this worker does not have it", exclude=True)
    matching.lift()
    assert claimed("refused") is None


@pytest.fixture
def kept_fleet(monkeypatch):
    """The fleet is read once, however long the test takes."""
    monkeypatch.setattr(matching.cached_fleet, "_seconds", 3600.0)


def test_the_check_takes_one_more_query(alice, two, kept_fleet, django_assert_num_queries):
    submit(alice)  # what nodes there are is read once
    models = [ModelUse(TINY, "checkpoint")]
    with django_assert_num_queries(1):  # which of the hosts have the models
        assert matching.suited(graphs.txt2img(), models) == matching.Suited(["lacks"], ["has"])


def test_a_single_worker_needs_no_lookup(alice, kept_fleet, django_assert_num_queries):
    worker("only")
    matching.cached_fleet()
    with django_assert_num_queries(0):
        assert matching.suited(graphs.txt2img(), [ModelUse(TINY, "checkpoint")]) == matching.Suited()
