"""Retention: what is deleted and what is kept by `manage.py clean`."""

from __future__ import annotations

import io
import threading
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import connection, transaction
from django.db.models import F
from django.utils import timezone

from accounts.models import ApiKey, Session
from comfyserve import cleaning
from comfyserve.celery import app
from files.models import File, Kind
from script.harness import graphs
from script.harness.waiting import wait_for
from tests.factories import Api, make_user
from workflows.models import (
    Delivery,
    DeliveryAttempt,
    Execution,
    LogLine,
    ObjectInfo,
    Output,
    OutputDelivery,
    Status,
    Worker,
)
from workflows.queue import claims, state_machine
from workflows.webhooks import outbox


def clean(*options: str) -> str:
    out = io.StringIO()
    call_command("clean", "--only=workflows", *options, stdout=out)
    return out.getvalue()


def submit(api: Api, **more: Any) -> str:
    response = api.post("/workflows/execute", {"workflow": graphs.colour(1), **more})
    assert response.status_code == 200, response.content
    return str(response.json()["execution_id"])


def run(api: Api, *, days_ago: float = 0, seconds: float = 30) -> str:
    """An execution with a log, an output in a file and webhooks that were sent; it ended so long ago."""
    execution_id = submit(api)
    execution = Execution.objects.get(id=execution_id)
    outbox.register(execution, outbox.WebhookRequest("http://127.0.0.77:9/hook", [], "http://localhost"))
    claim = claims.take(worker="gpu")
    assert claim is not None
    assert state_machine.begin(claim, total_steps=1)
    file = File(user_id=claim.user_id, kind=Kind.OUTPUT, filename="a.png", content_type="image/png",
                size=1, width=1, height=1, sha256=execution_id, key=f"outputs/{execution_id}")  # fmt: skip
    output = Output(group="images", node_id="1", file=file)
    outcome = state_machine.Outcome(Status.COMPLETED, gpu_seconds=seconds, outputs=[output])
    assert state_machine.finish(claim, outcome)
    for delivery in Delivery.objects.filter(execution=execution):
        DeliveryAttempt.objects.create(delivery=delivery, duration_ms=1)
    Delivery.objects.filter(execution=execution).update(state=Delivery.State.DELIVERED)
    OutputDelivery.objects.create(
        output=output, execution=execution, user_id=claim.user_id, filename="a.png", state="delivered"
    )
    age(execution_id, days=days_ago)
    return execution_id


def age(execution_id: str, *, days: float) -> None:
    """As if all of it had happened so much earlier."""
    past = timedelta(days=days)
    Execution.objects.filter(id=execution_id).update(
        created_at=F("created_at") - past, completed_at=F("completed_at") - past
    )
    LogLine.objects.filter(execution_id=execution_id).update(timestamp=F("timestamp") - past)
    Delivery.objects.filter(execution_id=execution_id).update(created_at=F("created_at") - past)


def rows_of(execution_id: str) -> dict[str, int]:
    """How many rows of each table belong to it, whichever tables there are."""
    found = {}
    for relation in Execution._meta.related_objects:
        if relation.name != "retries":
            model = relation.related_model
            found[model._meta.label] = model._default_manager.filter(execution_id=execution_id).count()
    return found


class TestExecutions:
    def test_an_old_execution_is_deleted_with_everything_that_belongs_to_it(self, alice):
        old, young = run(alice, days_ago=91), run(alice, days_ago=89)
        assert all(rows_of(old).values()), rows_of(old)
        assert "removed: 1 executions" in clean()
        assert alice.get(f"/workflows/{old}").status_code == 404
        assert not any(rows_of(old).values())
        assert not File.objects.filter(sha256=old).exists()
        assert len(alice.get(f"/workflows/{young}").json()["outputs"]["images"]) == 1

    def test_a_waiting_execution_is_never_cleaned_up(self, alice):
        execution_id = submit(alice)
        age(execution_id, days=1000)
        clean()
        assert alice.get(f"/workflows/{execution_id}").json()["status"] == "pending"

    def test_an_execution_with_a_pending_webhook_is_kept(self, alice):
        execution_id = run(alice, days_ago=91)
        Delivery.objects.filter(event="workflow.completed").update(state=Delivery.State.WAITING)
        clean()
        assert Delivery.objects.filter(execution_id=execution_id, event="workflow.completed").exists()
        Delivery.objects.update(state=Delivery.State.FAILED)
        clean()
        assert not Execution.objects.filter(id=execution_id).exists()

    def test_a_file_that_a_waiting_one_needs_stays(self, alice):
        run(alice, days_ago=91)
        file = File.objects.get()
        submit(alice, workflow={"1": {"class_type": "LoadImage", "inputs": {"image": file.id}}})
        clean()
        assert not Output.objects.exists()
        assert File.objects.get() == file

    @pytest.mark.django_db(transaction=True)
    def test_a_locked_row_is_skipped_until_the_next_sweep(self, alice):
        held, free = run(alice, days_ago=92), run(alice, days_ago=91)
        locked, go_on = threading.Event(), threading.Event()

        def hold() -> None:
            with transaction.atomic():
                list(Execution.objects.select_for_update().filter(id=held))
                locked.set()
                go_on.wait(20)
            connection.close()

        holder = threading.Thread(target=hold)
        holder.start()
        assert locked.wait(10)
        told = clean()
        go_on.set()
        holder.join()
        assert "1 executions" in told
        assert set(Execution.objects.values_list("id", flat=True).filter(id__in=[held, free])) == {
            Execution.objects.get(id=held).id
        }
        assert "1 executions" in clean()

    def test_nothing_is_deleted_if_the_setting_is_0(self, alice, settings):
        settings.EXECUTION_RETENTION_DAYS = settings.LOG_RETENTION_DAYS = settings.WEBHOOK_RETENTION_DAYS = 0
        execution_id = run(alice, days_ago=10_000)
        before = rows_of(execution_id)
        assert "removed: nothing" in clean()
        assert rows_of(execution_id) == before

    def test_a_dry_run_reports_the_same_and_removes_nothing(self, alice):
        execution_id = run(alice, days_ago=91)
        before = rows_of(execution_id)
        told = clean("--dry-run")
        assert "would remove: 1 executions, 1 files of executions" in told
        assert "1 bytes of files" in told
        assert rows_of(execution_id) == before


class TestTheOrder:
    """Deleting what has run gives nobody a better place."""

    def test_a_returning_user_does_not_overtake_waiting_ones(self, alice, bob):
        for _ in range(3):
            run(alice, days_ago=91, seconds=600)
        waiting = submit(alice)
        clean()
        assert Execution.objects.count() == 1
        submit(bob)
        assert Execution.objects.get(id=waiting).start <= Execution.objects.latest("created_at").start + 150

    def test_deleted_executions_still_count_as_usage(self, alice, bob):
        """Alice runs one, deletes it, submits the next, and so on; Bob has two waiting and gets his turns."""
        bobs = [submit(bob), submit(bob)]
        for _ in range(4):
            execution_id = run_of(alice)
            alice.delete(f"/workflows/{execution_id}")
        assert Execution.objects.filter(id__in=bobs, claimed_at__isnull=False).count() == 2


def run_of(api: Api) -> str:
    """Submit one, then run what is next until it has ended."""
    execution_id = submit(api)
    while Execution.objects.get(id=execution_id).status == "pending":
        claim = claims.take(worker="gpu")
        assert claim is not None
        state_machine.begin(claim, total_steps=1)
        state_machine.finish(claim, state_machine.Outcome(Status.COMPLETED, gpu_seconds=30.0))
    return execution_id


class TestLinesAndDeliveries:
    def test_they_go_before_their_execution(self, alice):
        old, young = run(alice, days_ago=31), run(alice, days_ago=29)
        told = clean()
        assert "2 webhook deliveries" in told
        assert "executions" not in told
        assert alice.get(f"/workflows/{old}/logs").json()["total_count"] == 0
        assert alice.get(f"/workflows/{old}").json()["status"] == "completed"
        assert not DeliveryAttempt.objects.filter(delivery__execution_id=old).exists()
        assert alice.get(f"/workflows/{young}/logs").json()["total_count"] > 0
        assert Delivery.objects.filter(execution_id=young).count() == 2

    def test_lines_of_what_waits_stay_and_hold_no_others_back(self, alice):
        waiting = submit(alice)
        age(waiting, days=31)
        Execution.objects.filter(id=waiting).update(held="quota")
        run(alice, days_ago=31)
        clean()
        assert set(LogLine.objects.values_list("execution_id", flat=True)) == {
            Execution.objects.get(id=waiting).id
        }

    def test_one_cleanup_deletes_more_than_a_batch(self, alice, monkeypatch):
        monkeypatch.setattr(cleaning, "BATCH", 2)
        run(alice, days_ago=31)
        assert LogLine.objects.count() > 4
        clean()
        assert not LogLine.objects.exists()


class TestWorkers:
    @pytest.fixture
    def silent(self, db):
        def make(name: str, *, days: float, **fields: Any) -> Worker:
            at = timezone.now() - timedelta(days=days)
            known = {"host": "h", "pid": 1, "url": "http://x", "heartbeat_at": at}
            return Worker.objects.create(name=name, **known, **fields)

        return make

    def test_a_host_silent_for_long_is_removed_with_what_only_it_reported(self, silent):
        long_ago = timezone.now() - timedelta(days=30)
        for digest in ("shared", "own"):
            ObjectInfo.objects.create(digest=digest, body={}, created_at=long_ago)
        silent("gone", days=8, object_info_id="own")
        silent("gone too", days=8, object_info_id="shared")
        silent("away", days=6, object_info_id="shared")
        assert "1 node definitions, 2 silent workers" in clean()
        assert [worker.name for worker in Worker.objects.all()] == ["away"]
        assert [info.digest for info in ObjectInfo.objects.all()] == ["shared"]

    def test_a_paused_one_stays_paused(self, silent):
        silent("paused", days=100, desired_state=Worker.DesiredState.PAUSE)
        clean()
        assert Worker.objects.get().name == "paused"

    def test_a_recently_reported_description_stays(self, db):
        ObjectInfo.objects.create(digest="new", body={})
        clean()
        assert ObjectInfo.objects.exists()

    def test_a_returning_worker_reports_everything_again(self, gpu_worker):
        def known() -> list[tuple[Any, ...]]:
            return gpu_worker.sql("SELECT name FROM workflows_worker WHERE object_info_id IS NOT NULL")

        wait_for(known, seconds=40, what="the worker to be known")
        # At once: a heartbeat in between would refer to what is deleted next.
        gpu_worker.sql("DELETE FROM workflows_worker; DELETE FROM workflows_objectinfo")
        wait_for(known, seconds=40, what="the worker to be known again")
        alice = gpu_worker.person("alice")
        assert alice.result(alice.execute(graphs.colour(1)))["status"] == "completed"


class TestAccounts:
    def test_sessions_and_keys_go_some_time_after_they_expired(self, db):
        alice = make_user("alice")
        Api.of(alice)
        now = timezone.now()
        for days in (89, 91):
            at = now - timedelta(days=days)
            Session.objects.create(user=alice, password_stamp="x", issued=[at], expires_at=at)
            ApiKey.objects.create(user=alice, name="x", prefix="x", digest=str(days), expires_at=at)
        ApiKey.objects.create(user=alice, name="x", prefix="x", digest="for ever")
        out = io.StringIO()
        call_command("clean", "--only=accounts", stdout=out)
        assert "1 expired API keys, 1 sessions" in out.getvalue()
        assert set(ApiKey.objects.values_list("digest", flat=True)) == {"89", "for ever"}


class TestBeat:
    @pytest.mark.parametrize("name", sorted(settings.CELERY_BEAT_SCHEDULE))
    def test_each_scheduled_task_exists_and_runs(self, db, name):
        app.loader.import_default_modules()
        assert app.tasks[str(settings.CELERY_BEAT_SCHEDULE[name]["task"])].apply().successful()

    def test_a_run_ends_after_its_batch_when_the_process_is_to_stop(self, alice, monkeypatch):
        monkeypatch.setattr(cleaning, "stopping", threading.Event())
        cleaning.stopping.set()
        monkeypatch.setattr("workflows.cleaning.BATCH", 1)
        run(alice, days_ago=92)
        run(alice, days_ago=91)
        app.tasks["workflows.tasks.clean"].apply()
        assert Execution.objects.count() == 1
