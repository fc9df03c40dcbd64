"""GET /metrics/: as documented, and as Prometheus reads it."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, transaction
from django.test import Client
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families as parse

from accounts.models import User
from health import figures
from health.probing import Probe, Shared
from script.harness import graphs
from workflows.metrics import store
from workflows.models import Delta, Execution, FailureCause, Status, Tally, Worker
from workflows.queue import claims, requeueing, state_machine, submission
from workflows.queue.state_machine import Outcome

pytestmark = pytest.mark.django_db(transaction=True)

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
DOCUMENTED = {
    "cpu_usage_percent", "memory_usage_percent", "gpu_usage_percent", "gpu_memory_usage_percent",
    "disk_usage_percent", "active_executions", "queue_size", "total_executions",
    "average_execution_time_seconds",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _look_each_time(monkeypatch):
    """Without the second that an answer is shared for, and with time enough on a busy machine."""
    monkeypatch.setattr(figures, "_shared", Shared(Probe("metrics", figures._read, limit=30).ask, seconds=0))


@pytest.fixture
def alice():
    return User.objects.create_user(username="alice", email="alice@example.com", password="correct horse")


@pytest.fixture
def submit(alice):
    def submit(priority: str = "normal", graph=None) -> Execution:
        return submission.submit(
            user=alice, workflow=graph or graphs.colour(1), priority=priority, timeout_minutes=30, metadata={}
        ).execution

    return submit


def run_one(
    status: Status = Status.COMPLETED, *, seconds: float = 3, cause: FailureCause | None = None
) -> None:
    """Take the next execution and end it, after it ran so long."""
    claim = claims.take(worker="w")
    assert claim is not None
    assert state_machine.begin(claim, total_steps=1)
    began = timezone.now() - timedelta(seconds=seconds)
    Execution.objects.filter(id=claim.execution_id).update(started_at=began, created_at=began)
    outcome = Outcome(status, error=cause and "no", failure_cause=cause, gpu_seconds=seconds)
    assert state_machine.finish(claim, outcome)


def run_seconds() -> list[float]:
    """How long each completed execution ran: a little longer than `run_one` was asked for."""
    completed = Execution.objects.filter(status=Status.COMPLETED).order_by("completed_at")
    spans = completed.values_list("started_at", "completed_at")
    return [(ended - began).total_seconds() for began, ended in spans if began and ended]


def metrics(**headers) -> dict[str, Any]:
    return Client().get("/metrics/", **headers).json()


def scrape(accept: str = "text/plain") -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample by name and labels."""
    answer = Client().get("/metrics/", headers={"Accept": accept})
    assert answer.status_code == 200
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse(answer.content.decode())
        for sample in family.samples
    }


def sample(samples, name: str, **labels: str) -> float | None:
    """The sum over all samples that bear these labels; None where there is none."""
    found = [v for (n, has), v in samples.items() if n == name and set(labels.items()) <= has]
    return sum(found) if found else None


class TestJson:
    def test_the_fields_are_those_of_the_reference(self):
        assert set(metrics()) == DOCUMENTED

    def test_gpu_figures_are_null_without_a_gpu(self):
        found = metrics()
        assert found["gpu_usage_percent"] is None
        assert found["gpu_memory_usage_percent"] is None

    def test_gpu_figures_come_from_the_heartbeats_each_gpu_once(self):
        gpu = {
            "index": 0, "uuid": "GPU-1", "name": "H100", "usage_percent": 80.0, "memory_used": 30,
            "memory_total": 100, "temperature_celsius": 60,
        }  # fmt: skip
        other = {**gpu, "uuid": "GPU-2", "usage_percent": 20.0, "memory_used": 10}
        for name, gpus in (("a", [gpu]), ("b", [gpu, other])):
            Worker.objects.create(name=name, host="h", pid=1, url="http://x", reachable=True, gpus=gpus)
        found = metrics()
        assert found["gpu_usage_percent"] == 50.0
        assert found["gpu_memory_usage_percent"] == 20.0

    def test_waiting_running_and_accepted_executions_are_counted(self, submit):
        for _ in range(4):
            submit()
        run_one()
        claim = claims.take(worker="w")
        assert claim is not None
        state_machine.begin(claim, total_steps=1)
        found = metrics()
        assert (found["active_executions"], found["queue_size"], found["total_executions"]) == (1, 2, 4)

    def test_the_average_is_of_the_completed_ones(self, submit):
        submit(), submit(), submit()
        run_one(seconds=2)
        run_one(seconds=4)
        run_one(Status.FAILED, seconds=100, cause=FailureCause.NODE)
        average = metrics()["average_execution_time_seconds"]
        assert average == pytest.approx(sum(run_seconds()) / 2, abs=0.01)
        assert 3 <= average < 30

    def test_the_average_is_null_while_nothing_was_completed(self):
        assert metrics()["average_execution_time_seconds"] is None

    def test_figures_outlive_the_executions(self, submit):
        execution = submit()
        run_one()
        Execution.objects.filter(id=execution.id).delete()
        assert metrics()["total_executions"] == 1


class TestAccept:
    @pytest.mark.parametrize("accept", ["*/*", "application/json", "text/html,*/*;q=0.8", ""])
    def test_json_is_for_all_who_do_not_ask_for_text(self, accept):
        answer = Client().get("/metrics/", headers={"Accept": accept})
        assert answer["Content-Type"] == "application/json"

    @pytest.mark.parametrize(
        "accept, content_type",
        [
            ("text/plain", "text/plain"),
            ("text/plain; charset=utf-8", "text/plain"),
            ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", "text/plain"),
            (PROMETHEUS, "application/openmetrics-text"),
        ],
    )
    def test_text_is_for_prometheus(self, accept, content_type):
        answer = Client().get("/metrics/", headers={"Accept": accept})
        assert answer["Content-Type"].startswith(content_type)


class TestToken:
    def test_it_is_wanted_when_set__no(self, settings):
        settings.METRICS_TOKEN = "letmein"
        answer = Client().get("/metrics/", headers={"Authorization": "Bearer guess"})
        assert answer.status_code == 401
        assert answer.json()["error"] == "unauthorized"

    def test_it_is_wanted_when_set__yes(self, settings):
        settings.METRICS_TOKEN = "letmein"
        answer = Client().get("/metrics/", headers={"Authorization": "Bearer letmein"})
        assert answer.status_code == 200

    def test_metrics_are_not_counted_for_rate_limits(self, settings):
        settings.RATE_LIMITS = "1/m"
        remaining = [Client().get("/metrics/")["X-RateLimit-Remaining"] for _ in range(3)]
        assert remaining == ["1", "1", "1"]


class TestPrometheus:
    def test_ended_ones_are_counted_by_status_and_priority(self, submit):
        submit("high"), submit("low"), submit("low")
        run_one()
        run_one(Status.FAILED, cause=FailureCause.NODE)
        state_machine.cancel(Execution.objects.get(status="pending").id)
        found = scrape()
        name = "comfyserve_executions_ended_total"
        assert sample(found, name) == 3
        assert sample(found, name, status="completed", priority="high") == 1
        assert sample(found, name, status="cancelled", priority="low") == 1

    def test_run_times_are_a_histogram_by_kind(self, submit):
        kinds = {submit(graph=graphs.colour(1)).kind, submit(graph=graphs.txt2img()).kind}
        run_one(seconds=2.1)
        run_one(seconds=31)
        found = scrape()
        name = "comfyserve_execution_run_seconds"
        assert {dict(has)["kind"] for n, has in found if n == f"{name}_count"} == kinds
        assert sample(found, f"{name}_bucket", le="5.0") == 1
        assert sample(found, f"{name}_bucket", le="60.0") == 2
        assert sample(found, f"{name}_sum") == pytest.approx(sum(run_seconds()), abs=0.01)

    def test_kinds_beyond_the_first_are_one(self, submit, monkeypatch):
        monkeypatch.setattr(store, "MAX_KINDS", 1)
        for graph in (graphs.colour(1), graphs.txt2img(), graphs.txt2img(steps=9)):
            submit(graph=graph)
            run_one()
            store.fold()
        found = scrape()
        kinds = [dict(has)["kind"] for n, has in found if n == "comfyserve_execution_run_seconds_count"]
        assert len(kinds) == 2
        assert "other" in kinds

    def test_failures_are_counted_by_cause(self, submit):
        submit()
        run_one(Status.FAILED, cause=FailureCause.TIMEOUT)
        assert sample(scrape(), "comfyserve_execution_failures_total", cause="timeout") == 1

    def test_the_queue_is_reported_by_priority_with_the_age_of_the_oldest(self, submit):
        submit("high"), submit("low"), submit("low")
        Execution.objects.filter(priority="high").update(created_at=timezone.now() - timedelta(seconds=90))
        found = scrape()
        assert sample(found, "comfyserve_waiting_executions", priority="low") == 2
        assert sample(found, "comfyserve_waiting_executions", priority="normal") == 0
        assert sample(found, "comfyserve_oldest_waiting_seconds", priority="high") == pytest.approx(90, abs=5)

    def test_a_claim_taken_from_a_dead_worker_is_a_lease_loss(self, submit, settings):
        submit()
        claims.take(worker="w")
        long_ago = timezone.now() - timedelta(hours=1)
        Execution.objects.update(lease_expires_at=long_ago, suspect_lease=long_ago, suspect_since=long_ago)
        assert requeueing.reap() == 1
        assert sample(scrape(), "comfyserve_lease_losses_total", how="reaped") == 1

    def test_workers_are_counted_by_what_they_are(self):
        long_ago = timezone.now() - timedelta(minutes=5)
        Worker.objects.create(name="a", host="h", pid=1, url="http://x", reachable=True)
        Worker.objects.create(name="b", host="h", pid=1, url="http://x", reachable=False)
        Worker.objects.create(name="c", host="h", pid=1, url="http://x", heartbeat_at=long_ago)
        found = scrape()
        told = [sample(found, "comfyserve_workers", status=s) for s in ("active", "unreachable", "silent")]
        assert told == [1, 1, 1]


class TestFolding:
    def test_figures_are_the_same_before_and_after(self, submit):
        for _ in range(3):
            submit()
            run_one()
        before = store.read()
        assert store.fold() > 0
        assert not Delta.objects.exists()
        assert store.read() == before

    def test_later_counts_are_added(self, submit):
        submit()
        store.fold()
        submit()
        store.fold()
        assert Tally.objects.get(metric="executions_submitted").count == 2

    def test_a_rolled_back_submission_is_not_counted(self, submit):
        with transaction.atomic():
            submit()
            transaction.set_rollback(True)
        assert metrics()["total_executions"] == 0

    def test_an_end_that_changed_nothing_is_not_counted(self, submit):
        execution = submit()
        assert state_machine.cancel(execution.id)
        assert not state_machine.cancel(execution.id)
        assert not state_machine.cancel(uuid.uuid4())
        assert sample(scrape(), "comfyserve_executions_ended_total") == 1

    def test_counts_that_could_not_be_written_are_written_later(self, monkeypatch):
        gathered = store.Gathered()
        gathered.gather("model_loads", ("checkpoint",), value=2, count=2)
        with monkeypatch.context() as patch:
            patch.setattr(Delta.objects, "bulk_create", _refuse)
            with pytest.raises(OperationalError):
                gathered.flush()
        gathered.flush()
        gathered.flush()
        assert sample(scrape(), "comfyserve_model_loads_total", type="checkpoint") == 2


def _refuse(rows):
    raise OperationalError("away")


class TestModelLoads:
    def test_another_model_of_the_type_is_a_swap(self, monkeypatch):
        gathered = store.Gathered()
        monkeypatch.setattr(store, "_gathered", gathered)
        monkeypatch.setattr(store, "_last_model", {})
        for name in ("a", "a", "b"):
            store.model_loaded(name=name, type="checkpoint")
        gathered.flush()
        found = scrape()
        assert sample(found, "comfyserve_model_loads_total", type="checkpoint") == 3
        assert sample(found, "comfyserve_model_swaps_total", type="checkpoint") == 1
