"""The console's executions: the list, the detail page, and operators' actions."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.audit_models import AuditEntry
from comfyserve.console import paging
from files.models import File, Kind
from script.harness import graphs
from tests.console.conftest import client_of
from tests.factories import make_user
from workflows.admin import filters
from workflows.models import Execution, FailureCause, LineKind, LogLine, Output, Status, Worker
from workflows.queue import claims, execution_log, requeueing, scheduling, state_machine, submission

LIST = "/admin/workflows/execution/"
EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script>"


@pytest.fixture
def alice(db: Any) -> Any:
    return make_user("alice")


def submitted(user: Any, workflow: Any = None, **more: Any) -> Execution:
    wanted: dict[str, Any] = {"priority": "normal", "timeout_minutes": 30, "metadata": {}, **more}
    return submission.submit(user=user, workflow=workflow or graphs.colour(1), **wanted).execution


def running(user: Any, workflow: Any = None) -> tuple[Execution, claims.Claim]:
    execution = submitted(user, workflow)
    claim = claims.take(worker="gpu-1")
    assert claim is not None
    assert claim.execution_id == execution.id
    state_machine.begin(claim, total_steps=4)
    return execution, claim


def failed(
    user: Any,
    workflow: Any = None,
    error: str = "Node 1 failed: no",
    cause: FailureCause | None = FailureCause.NODE,
    **details: Any,
) -> Execution:
    execution, claim = running(user, workflow)
    outcome = state_machine.Outcome(
        Status.FAILED, error=error, error_details=details or None, failure_cause=cause
    )
    state_machine.finish(claim, outcome)
    return execution


def one_after_another(user: Any, number: int) -> list[Execution]:
    """Failed executions, submitted one minute after the other."""
    made = [failed(user, graphs.txt2img()) for _ in range(number)]
    for minutes, execution in enumerate(reversed(made)):
        earlier = timezone.now() - timedelta(minutes=minutes)
        Execution.objects.filter(id=execution.id).update(created_at=earlier)
    return made


def act(client: Any, action: str, *rows: Execution, **answer: str) -> Any:
    """What the browser sends after the question was answered with yes."""
    chosen = {"action": action, "index": "0", "_selected_action": [str(row.pk) for row in rows]}
    return client.post(LIST, {**chosen, "confirmed": "yes", **answer}, follow=True)


def status_of(execution: Execution) -> str:
    execution.refresh_from_db()
    return execution.status


class TestList:
    def test_it_shows_executions_of_all_users(self, console, alice):
        execution, claim = running(alice, graphs.txt2img())
        state_machine.write_progress(claim, columns={"percentage": 42.0}, lines=[])
        page = console.get(LIST).content.decode()
        assert str(execution.id) in page
        assert "alice@example.com" in page
        assert 'value="42"' in page
        assert "tiny-sd15.safetensors" in page

    def test_a_page_of_fifty_takes_at_most_twelve_queries(self, console, alice):
        for number in range(55):
            submitted(alice, graphs.colour(number))
        console.get(LIST)
        with CaptureQueriesContext(
            connection,
        ) as queries:
            answer = console.get(LIST, {"status__exact": "pending", "user": "alice", "submitted": "day"})
        assert answer.content.decode().count("data-row") == 50
        assert len(queries) <= 12, [query["sql"] for query in queries]

    @pytest.mark.parametrize("wanted", ["id", "user", "error"])
    def test_search(self, console, alice, wanted):
        other = submitted(make_user("bob"))
        state_machine.cancel(other.id)
        execution = failed(alice, error="Node 5 failed: the moon is full")
        term = {"id": str(execution.id), "user": "alice@", "error": "MOON"}[wanted]
        page = console.get(LIST, {"q": term}).content.decode()
        assert str(execution.id) in page
        assert str(other.id) not in page

    def test_a_text_is_searched_in_the_latest_failures_that_the_filters_leave(
        self, console, alice, monkeypatch
    ):
        monkeypatch.setattr(filters, "SEARCHED_ERRORS", 1)
        execution = failed(alice, error="Node 5 failed: the moon is full")
        failed(make_user("bob"), error="Node 5 failed: the sun is out")
        assert str(execution.id) not in console.get(LIST, {"q": "moon"}).content.decode()
        assert str(execution.id) in console.get(LIST, {"q": "moon", "user": "alice"}).content.decode()

    @pytest.mark.parametrize(
        "chosen, index",
        [
            ({"worker": "gpu-1"}, "execution_of_worker"),
            ({"priority__exact": "high"}, "execution_of_priority"),
            ({"model": "tiny-sd15.safetensors"}, "execution_of_model"),
            ({"cause": "timeout"}, "execution_of_cause"),
            ({"cause": "other"}, "execution_of_cause"),
        ],
    )
    def test_each_filter_has_an_index(self, console, chosen, index):
        """For many rows; with as few as here PostgreSQL takes it only when nothing else is allowed."""
        from models_registry.models import Model

        Worker.objects.create(name="gpu-1", host="h", pid=1, url="http://x")
        Model.objects.create(type="checkpoint", name="tiny-sd15.safetensors", last_used=timezone.now())
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_seqscan = off")
            with CaptureQueriesContext(connection) as queries:
                console.get(LIST, chosen)
            *_, explained = [each["sql"] for each in queries if each["sql"].startswith("EXPLAIN")]
            cursor.execute(explained)
            assert index in str(cursor.fetchone())

    @pytest.mark.parametrize(
        "chosen, is_limited",
        [
            ({"worker": "gpu-1", "status__exact": "failed"}, True),
            ({"worker": "gpu-1", "cause": "node"}, True),
            ({"worker": "gpu-1", "q": "alice"}, True),
            ({"model": "tiny-sd15.safetensors"}, True),
            ({"model": "tiny-sd15.safetensors", "user": "alice"}, True),
            ({"worker": "gpu-1", "priority__exact": "high"}, False),  # an index has the few that are high
            ({"worker": "gpu-1"}, False),
            ({"user": "alice", "status__exact": "failed"}, False),
            ({"worker": "gpu-1", "submitted": "hour"}, False),
        ],
    )
    def test_filters_without_an_index_in_their_order_are_compared_with_the_latest(
        self, console, alice, monkeypatch, chosen, is_limited
    ):
        from models_registry.models import Model

        monkeypatch.setattr(filters, "COMPARED", 2)
        Worker.objects.create(name="gpu-1", host="h", pid=1, url="http://x")
        Model.objects.create(type="checkpoint", name="tiny-sd15.safetensors", last_used=timezone.now())
        oldest, *_, latest = one_after_another(alice, 4)
        Execution.objects.filter(id=oldest.id).update(priority="high")
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE workflows_execution")
        page = console.get(LIST, chosen).content.decode()
        assert (str(oldest.id) in page, "Compare all" in page) == (not is_limited, is_limited)
        assert (str(latest.id) in page) == ("priority__exact" not in chosen)
        page = console.get(LIST, {**chosen, "all": ""}).content.decode()
        assert str(oldest.id) in page
        assert "Compare all" not in page

    def test_an_id_is_found_whatever_the_filters_compare(self, console, alice, monkeypatch):
        monkeypatch.setattr(filters, "COMPARED", 1)
        oldest, _ = one_after_another(alice, 2)
        chosen = {"status__exact": "failed", "cause": "node", "q": str(oldest.id)}
        assert str(oldest.id) in console.get(LIST, chosen).content.decode().replace(
            f'value="{oldest.id}"', ""
        )

    @pytest.mark.parametrize(
        "chosen, found",
        [
            ({"status__exact": "failed"}, True), ({"status__exact": "completed"}, False),
            ({"user": "alice"}, True), ({"user": "bob"}, False),
            ({"worker": "gpu-1"}, True), ({"worker": "gpu-2"}, False),
            ({"model": "tiny-sd15.safetensors"}, True), ({"model": "other.safetensors"}, False),
            ({"cause": "out_of_memory"}, True), ({"cause": "node"}, False),
            ({"submitted": "hour"}, True),
            ({"priority__exact": "high"}, False),
        ],
    )  # fmt: skip
    def test_filters(self, console, alice, chosen, found):
        from models_registry.models import Model

        for name in ("gpu-1", "gpu-2"):
            Worker.objects.create(name=name, host="h", pid=1, url="http://x")
        for name in ("tiny-sd15.safetensors", "other.safetensors"):
            Model.objects.create(type="checkpoint", name=name, last_used=timezone.now())
        execution = failed(
            alice,
            graphs.txt2img(),
            error="Node 5 failed: the GPU ran out of memory",
            cause=FailureCause.OUT_OF_MEMORY,
        )
        page = console.get(LIST, chosen).content.decode()
        assert (str(execution.id) in page) == found

    @pytest.mark.parametrize("chosen", [{"q": "nobody and nothing"}, {"user": "nobody"}, {"q": "%00 '\""}])
    def test_filters_that_match_nothing_give_an_empty_list(self, console, alice, chosen):
        execution = submitted(alice)
        answer = console.get(LIST, chosen)
        assert answer.status_code == 200
        assert str(execution.id) not in answer.content.decode()

    def test_an_old_one_is_not_of_the_last_hour(self, console, alice):
        execution = submitted(alice)
        Execution.objects.filter(id=execution.id).update(created_at=timezone.now() - timedelta(hours=2))
        assert str(execution.id) not in console.get(LIST, {"submitted": "hour"}).content.decode()

    def test_big_tables_are_not_counted(self, console, alice, monkeypatch):
        monkeypatch.setattr(paging, "EXACT_UP_TO", 2)
        for number in range(5):
            submitted(alice, graphs.colour(number))
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE workflows_execution")
        assert "about 5" in " ".join(console.get(LIST).content.decode().split())

    def test_its_cells_refresh_until_all_have_ended(self, console, alice):
        execution, claim = running(alice)
        state_machine.write_progress(claim, columns={"percentage": 50.0}, lines=[])
        answer = console.get(f"{LIST}live/", {"id": str(execution.id)})
        assert answer.status_code == 200
        assert 'value="50"' in answer.content.decode()
        state_machine.cancel(execution.id)
        answer = console.get(f"{LIST}live/", {"id": str(execution.id)})
        assert answer.status_code == 286  # htmx asks no more
        assert "cancelled" in answer.content.decode()


class TestPage:
    def test_it_draws_the_graph_with_the_failed_node_and_times(self, console, alice):
        execution, claim = running(alice, graphs.txt2img())
        began = [execution_log.Line("Running", node_id=node, kind=LineKind.NODE) for node in ("1", "5")]
        state_machine.write_progress(claim, columns={}, lines=began)
        LogLine.objects.filter(node_id="1").update(timestamp=timezone.now() - timedelta(seconds=7))
        details = {"node_id": "5", "type": "ValueError"}
        state_machine.finish(
            claim, state_machine.Outcome(Status.FAILED, error="Sampler broke", error_details=details)
        )
        page = console.get(f"{LIST}{execution.id}/change/").content.decode()
        assert page.count('class="cs-node') == 7
        assert page.count("cs-node cs-failed") == 1
        assert "Sampler (5): failed" in page
        assert "CheckpointLoaderSimple (1): done, 7.0 s" in page
        assert "Sampler broke" in page

    def test_it_lists_each_attempt(self, console, alice):
        execution, claim = running(alice)
        requeueing.requeue(claim, reason="ComfyUI died", fault=True)
        assert claims.take(worker="gpu-2") is not None
        page = console.get(f"{LIST}{execution.id}/change/").content.decode()
        attempts = page[page.index(">Attempts<") :]
        assert attempts.index("gpu-1") < attempts.index("ComfyUI died") < attempts.index("gpu-2")

    def test_its_log_grows_while_it_runs(self, console, alice):
        execution, claim = running(alice)
        last = LogLine.objects.latest("id").id
        state_machine.write_progress(claim, columns={}, lines=[execution_log.Line("a new line")])
        more = console.get(f"{LIST}{execution.id}/log/?after={last}").content.decode()
        assert "a new line" in more
        assert f"after={LogLine.objects.latest('id').id}" in more
        state_machine.cancel(execution.id)
        last = LogLine.objects.latest("id").id
        assert "hx-get" not in console.get(f"{LIST}{execution.id}/log/?after={last}").content.decode()

    def test_it_refreshes_itself_while_it_runs(self, console, alice):
        execution, _ = running(alice)
        path = f"{LIST}{execution.id}/change/"
        [live] = re.findall(r'id="live" hx-get="([^"]+)"', console.get(path).content.decode())
        answer = console.get(live)
        assert answer.status_code == 200
        assert "gpu-1" in answer.content.decode()
        assert f'name="next" value="{path}"' in answer.content.decode()  # where a button leads back to
        state_machine.cancel(execution.id)
        assert console.get(live).status_code == 286  # htmx asks no more

    def test_the_workflow_can_be_downloaded(self, console, alice):
        execution = submitted(alice, graphs.txt2img())
        answer = console.get(f"{LIST}{execution.id}/workflow.json")
        assert json.loads(answer.content) == graphs.txt2img()
        assert answer["Content-Disposition"].startswith("attachment")

    def test_text_written_by_users_is_escaped(self, console, alice):
        workflow = graphs.txt2img(text=EVIL)
        workflow["5"]["_meta"]["title"] = EVIL
        execution = failed(alice, workflow, error=EVIL, node_id="5", message=EVIL)
        Execution.objects.filter(id=execution.id).update(metadata={EVIL: EVIL, "model_used": EVIL})
        LogLine.objects.create(execution=execution, level="INFO", message=EVIL)
        make_user("mallory", first_name=EVIL)
        for path in (
            f"{LIST}{execution.id}/change/",
            f"{LIST}{execution.id}/live/",
            LIST,
            f"{LIST}?q={EVIL}",
        ):
            answer = console.get(path)
            assert answer.status_code in (200, 286), path
            page = answer.content.decode()
            assert "<img src=x" not in page, path
            assert "<script>alert" not in page, path

    @pytest.mark.parametrize("path", ["nonsense/change/", "00000000-0000-0000-0000-000000000000/change/"])
    def test_one_that_is_not_there(self, console, path):
        assert console.get(LIST + path).status_code == 404


class TestFiles:
    @pytest.fixture
    def file(self, alice: Any) -> File:
        name = default_storage.save("outputs/aa/one", ContentFile(b"the bytes"))
        small = default_storage.save("thumbnails/aa/one.webp", ContentFile(b"small"))
        return File.objects.create(
            user=alice, kind=Kind.OUTPUT, filename="a.png", content_type="image/png", size=9, sha256="0",
            key=name, thumbnail_key=small, width=1, height=1,
        )  # fmt: skip

    def test_operators_see_every_users_pictures(self, console, alice, file):
        execution = failed(alice)
        Output.objects.create(execution=execution, position=0, group="images", node_id="1", file=file)
        page = console.get(f"{LIST}{execution.id}/change/").content.decode()
        assert f'src="/admin/bytes/{file.id}/"' in page
        assert f'src="/admin/bytes/{file.id}/thumbnail/"' in console.get(LIST).content.decode()
        answer = console.get(f"/admin/bytes/{file.id}/")
        assert b"".join(answer.streaming_content) == b"the bytes"
        assert "sandbox" in answer["Content-Security-Policy"]
        assert b"".join(console.get(f"/admin/bytes/{file.id}/thumbnail/").streaming_content) == b"small"

    def test_others_do_not(self, alice, file):
        for user, status in ((alice, 302), (make_user("clerk", is_staff=True), 403)):
            for path in (f"/admin/bytes/{file.id}/", f"/admin/bytes/{file.id}/thumbnail/"):
                assert client_of(user).get(path).status_code == status


class TestActions:
    def test_each_asks_first(self, console, alice):
        execution = submitted(alice)
        chosen = {"action": "cancel", "index": "0", "_selected_action": [str(execution.pk)]}
        question = console.post(LIST, chosen).content.decode()
        assert "Yes, cancel" in question
        assert status_of(execution) == "pending"

    def test_cancel_many(self, console, operator, alice):
        rows = [submitted(alice, graphs.colour(number)) for number in range(3)]
        answer = act(console, "cancel", *rows)
        assert [status_of(row) for row in rows] == ["cancelled"] * 3
        assert "3 cancelled" in answer.content.decode()
        notes = AuditEntry.objects.filter(actor=operator.pk, action="execution.cancel", via="admin")
        assert {note.object_id for note in notes} == {str(row.pk) for row in rows}
        assert LogLine.objects.filter(message="Cancelled by an operator").count() == 3

    def test_an_ended_execution_is_not_cancelled(self, console, alice):
        execution = failed(alice)
        answer = act(console, "cancel", execution)
        assert status_of(execution) == "failed"
        assert "Not cancelled" in answer.content.decode()
        assert not AuditEntry.objects.filter(action="execution.cancel").exists()

    def test_retry_is_a_new_execution_of_the_same_user(self, console, alice):
        execution = failed(alice)
        act(console, "retry", execution)
        again = Execution.objects.get(retried_from=execution)
        assert again.user == alice
        assert again.status == "pending"

    def test_a_moved_execution_is_charged_by_the_estimate_that_placed_it(
        self, console: Any, alice: Any
    ) -> None:
        _, claim = running(alice)
        state_machine.finish(claim, state_machine.Outcome(Status.COMPLETED, gpu_seconds=1.0))
        waiting = submitted(alice)
        Execution.objects.filter(status=Status.COMPLETED).update(gpu_seconds=300.0)
        act(console, "prioritise", waiting, priority="high")
        waiting.refresh_from_db()
        charged = (waiting.finish - waiting.start) * scheduling.weight_of("high")
        assert waiting.priority == "high"
        assert charged == pytest.approx(waiting.cost)

    def test_a_higher_priority_runs_first(self, console, alice):
        first, second = submitted(alice), submitted(alice, graphs.colour(2))
        act(console, "prioritise", second, priority="high")
        claim = claims.take(worker="gpu-1")
        assert claim is not None
        assert claim.execution_id == second.id
        assert first.id != second.id

    def test_a_claimed_execution_keeps_its_priority(self, console, alice):
        execution, _ = running(alice)
        answer = act(console, "prioritise", execution, priority="high")
        assert "Only an execution that waits" in answer.content.decode()
        execution.refresh_from_db()
        assert execution.priority == "normal"

    def test_delete_wants_its_permission(self, alice):
        from django.contrib.auth.models import Permission

        clerk = make_user("clerk", is_staff=True)
        may = Permission.objects.filter(codename__in=["view_execution", "change_execution"])
        clerk.user_permissions.set(may)
        execution = failed(alice)
        act(client_of(clerk), "remove", execution)
        assert Execution.objects.filter(id=execution.id).exists()

    def test_a_read_only_operator_can_do_nothing(self, alice):
        from django.contrib.auth.models import Permission

        clerk = make_user("clerk", is_staff=True)
        clerk.user_permissions.set(Permission.objects.filter(codename="view_execution"))
        client = client_of(clerk)
        execution = submitted(alice)
        page = client.get(f"{LIST}{execution.id}/change/").content.decode()
        assert "Download workflow" in page
        assert ">Cancel<" not in page
        act(client, "cancel", execution)
        assert status_of(execution) == "pending"

    def test_delete_leaves_a_note(self, console, alice):
        execution = failed(alice)
        act(console, "remove", execution)
        assert not Execution.objects.filter(id=execution.id).exists()
        assert AuditEntry.objects.get(action="execution.remove").object_id == str(execution.id)

    def test_afterwards_one_is_where_one_was(self, console, alice):
        execution = submitted(alice)
        page = f"{LIST}{execution.id}/change/"
        assert act(console, "cancel", execution, next=page).request["PATH_INFO"] == page
        other = submitted(alice)
        assert act(console, "cancel", other, next="https://evil.example/").request["PATH_INFO"] == LIST
