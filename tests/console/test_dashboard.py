"""The console's dashboard: correct figures at bounded cost, refreshed automatically."""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from comfyserve.db import connections
from health import figures as health_figures
from health.dashboard import figures
from health.dashboard.day import day, total
from script.harness import graphs
from tests.console.conftest import client_of
from tests.console.test_executions import EVIL, failed, running, submitted
from tests.factories import make_user
from workflows.models import Execution, FailureCause, Status, Worker
from workflows.queue import state_machine

LIVE = "/admin/dashboard/live/"


@pytest.fixture(autouse=True)
def _nothing_remembered(db: Any, monkeypatch: Any) -> None:
    """Figures are shared for a moment among requests; here each test has its own."""
    day.forget()
    figures.cached_storage.forget()
    figures.current.forget()
    # Asked in this test's transaction, not in a thread that does not see it.
    monkeypatch.setattr(health_figures, "now", health_figures._read)
    monkeypatch.setattr(connections, "_return_connection", lambda: None)


@pytest.fixture
def alice(db: Any) -> Any:
    return make_user("alice")


def words(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def test_it_reports_what_is_running_waiting_or_ended(console, alice):
    running(alice)
    submitted(alice, graphs.colour(2))
    failed_one = submitted(make_user("bob"), graphs.colour(3))
    state_machine.cancel(failed_one.id)
    page = words(console.get(LIVE).content.decode())
    assert "Running 1" in page
    assert "Waiting 1" in page
    assert "Cancelled 1" in page
    assert "alice@example.com 1 1" in page


def test_failures_are_counted_by_cause(console, alice):
    failed(alice, graphs.colour(1), cause=FailureCause.OUT_OF_MEMORY)
    failed(alice, graphs.colour(2))
    failed(alice, graphs.colour(3))
    failed(alice, graphs.colour(4), cause=None)  # under an earlier version
    assert total(day.hours()).causes == {"out_of_memory": 1, "node": 2, "other": 1}
    page = words(console.get(LIVE).content.decode())
    assert all(cause in page for cause in ("node 2", "out of memory 1", "other 1"))


def test_it_shows_workers_with_their_gpus_and_what_they_run(console, alice):
    execution, claim = running(alice)
    state_machine.write_progress(claim, columns={"percentage": 37.0}, lines=[])
    gpu = {"uuid": "u", "index": 0, "name": "NVIDIA H100", "usage_percent": 91.0}
    Worker.objects.create(
        name="gpu-1", host="h", pid=1, url="http://x", reachable=True, running=execution.id,
        gpus=[{**gpu, "memory_used": 4 * 1024**3, "memory_total": 80 * 1024**3}],
    )  # fmt: skip
    page = console.get(LIVE).content.decode()
    assert f"/admin/workflows/execution/{execution.id}/change/" in page
    assert "NVIDIA H100 91 %" in words(page)
    assert "4.0 GiB of 80.0 GiB" in words(page)
    assert 'value="37"' in page


def test_it_says_when_no_worker_is_running(console, alice):
    submitted(alice)
    assert "No GPU worker is running, and 1 executions wait" in words(console.get(LIVE).content.decode())


def test_hours_that_are_over_are_read_once(alice):
    execution = failed(alice)
    earlier = timezone.now() - timedelta(hours=5)
    Execution.objects.filter(id=execution.id).update(completed_at=earlier)
    assert total(day.hours()).ended == {"failed": 1}
    with CaptureQueriesContext(connection) as queries:
        assert total(day.hours()).ended == {"failed": 1}
    spans = [re.findall(r"completed_at >= '([^']+)'", query["sql"]) for query in queries]
    assert spans
    for [start] in spans:  # the present hour, and the last one until it has settled
        assert datetime.fromisoformat(start) > timezone.now() - timedelta(hours=2)


def wait_for_the_next_hour_if_it_is_near() -> None:
    """So that the hour does not change during a test."""
    left = 3600 - time.time() % 3600
    if left < 20:
        time.sleep(left + 0.1)


def test_an_hour_counts_what_ended_in_it(alice):
    wait_for_the_next_hour_if_it_is_near()
    now = timezone.now()
    for number, back in enumerate((0, 0, 3, 30)):
        execution, claim = running(alice, graphs.colour(number))
        state_machine.finish(claim, state_machine.Outcome(Status.COMPLETED))
        Execution.objects.filter(id=execution.id).update(completed_at=now - timedelta(hours=back))
    found = [hour.ended.get("completed", 0) for hour in day.hours()]
    assert found == [0] * 20 + [1, 0, 0, 2]


def test_a_poll_takes_few_queries(console, alice):
    running(alice)
    console.get(LIVE)
    figures.current.forget()
    with CaptureQueriesContext(connection) as queries:
        console.get(LIVE)
    assert len(queries) <= 16, [query["sql"] for query in queries]


def test_the_sizes_of_many_files_are_reckoned_from_a_sample(alice, monkeypatch):
    from files.models import File

    File.objects.bulk_create(
        File(user=alice, kind="output", filename="a", content_type="x/y", size=1000, sha256="0", key=str(n))
        for n in range(200)
    )
    monkeypatch.setattr(figures, "SAMPLED_ABOVE", 100)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE files_file")
    assert figures.cached_storage() == figures.Storage(files=200, size=200_000, is_estimated=True)


def test_names_of_users_do_nothing(console):
    user = make_user("mallory")
    user.username = EVIL
    user.save()
    submitted(user)
    assert "<img src=x" not in console.get(LIVE).content.decode()


def test_executions_are_hidden_without_permission(alice):
    client = client_of(make_user("clerk", is_staff=True))
    submitted(alice)
    assert client.get(LIVE).status_code == 403
    assert "alice@example.com" not in client.get("/admin/").content.decode()
