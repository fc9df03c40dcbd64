"""The console's workers, models, users and audit log; and who may do what there."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.models import Group
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from accounts import api_keys, audit, sessions
from accounts.audit_models import AuditEntry
from accounts.models import ApiKey, User, UserLimits
from models_registry.models import Command, Download
from tests.console.conftest import client_of
from tests.console.operating import (
    AUDIT,
    DELIVERIES,
    DESTINATIONS,
    FILES,
    KEYS,
    MODELS,
    PAGES,
    SENT_FILES,
    USERS,
    WORKERS,
    act,
    last,
    make_model,
    one_of_each,
    page_of,
)
from tests.console.test_executions import EVIL, submitted
from tests.factories import make_user
from tests.health.test_workers import make_worker
from workflows.models import Worker

pytestmark = pytest.mark.django_db
MAX_QUERIES = 17  # of a user's page that is the first in a day, for which all the user's storage is counted


@pytest.fixture
def groups() -> None:
    """As the migration makes them; tests that empty the tables take them away."""
    import_module("accounts.migrations.0003_operator_groups").make(apps, None)
    import_module("workflows.migrations.0033_operators_see_deliveries").grant(apps, None)


def member(group: str) -> Client:
    user = make_user(f"of-{len(group)}", is_staff=True)
    user.groups.add(Group.objects.get(name=group))
    return client_of(user)


@pytest.fixture
def reader(groups: None) -> Client:
    return member("Operators (read only)")


@pytest.fixture
def clerk(groups: None) -> Client:
    return member("Operators")


@pytest.fixture
def alice() -> User:
    return make_user("alice")


class TestEveryPage:
    @pytest.mark.parametrize("address", PAGES[:-1])
    def test_list_and_page_cost_few_queries_and_escape_what_is_hostile(
        self, console: Client, alice: User, address: str
    ) -> None:
        for number in range(3):
            one_of_each(make_user(f"user{number}"), name=f"{number} of them")
        alice.username = EVIL
        alice.save()
        pks = one_of_each(alice, name=EVIL)
        for path in (address, page_of(address, pks[address])):
            with CaptureQueriesContext(
                connection,
            ) as queries:
                answer = console.get(path)
            assert answer.status_code == 200, path
            assert len(queries) <= MAX_QUERIES, "\n".join(query["sql"][:200] for query in queries)
            text = answer.content.decode()
            assert EVIL not in text
            assert "<img src=x" not in text

    @pytest.mark.parametrize("address", PAGES[:-1])
    def test_a_search_finds_and_survives_nonsense(self, console: Client, alice: User, address: str) -> None:
        one_of_each(alice)
        for term in ("x", "alice@example.com", "'%;--", "9" * 40, "\ud83d\ude00"):
            assert console.get(address, {"q": term.encode("utf-8", "replace").decode()}).status_code == 200

    @pytest.mark.parametrize("address", PAGES[:-1])
    def test_a_malformed_id_is_404_on_every_route(self, console: Client, address: str) -> None:
        answer = console.get(page_of(address, "nothing"), follow=True)
        assert answer.status_code == 404 or b"exist" in answer.content


class TestRoles:
    @pytest.mark.parametrize("address", PAGES)
    def test_a_reader_sees_every_page_and_no_action(self, reader: Client, alice: User, address: str) -> None:
        pks = {**one_of_each(alice), "/admin/workflows/execution/": submitted(alice).pk}
        for path in (address, page_of(address, pks[address])):
            answer = reader.get(path)
            assert answer.status_code == 200
            text = answer.content.decode()
            assert 'name="action"' not in text
            assert 'type="submit" class="cs-button' not in text

    def test_actions_posted_by_a_read_only_operator_are_rejected(self, reader: Client, alice: User) -> None:
        pks = one_of_each(alice)
        for address, action in [
            (WORKERS, "pause"), (MODELS, "load"), (FILES, "remove"), (DELIVERIES, "redeliver"),
            (DESTINATIONS, "redeliver"), (SENT_FILES, "redeliver"),
            (USERS, "deactivate"), (KEYS, "revoke"),
        ]:  # fmt: skip
            assert act(reader, address, action, pks[address]).status_code == 403, action
        assert reader.post(f"{MODELS}download/", {"name": "x"}).status_code == 403
        assert reader.post(page_of(USERS, alice.pk), {"email": "x@example.com"}).status_code == 403
        alice.refresh_from_db()
        assert (alice.is_active, Worker.objects.get().desired_state, ApiKey.objects.count()) == (
            True,
            "work",
            1,
        )

    def test_an_operator_acts(self, clerk: Client) -> None:
        make_worker("gpu")
        assert act(clerk, WORKERS, "pause", "gpu").status_code == 200
        assert Worker.objects.get().desired_state == "pause"

    def test_an_operator_cannot_make_anyone_staff(self, clerk: Client, alice: User) -> None:
        form = user_form(alice, is_staff="on", is_superuser="on")
        assert clerk.post(page_of(USERS, alice.pk), form).status_code == 302
        alice.refresh_from_db()
        assert (alice.is_staff, alice.is_superuser) == (False, False)

    def test_an_operator_does_nothing_to_staff(self, clerk: Client, operator: User) -> None:
        sessions.start(user=operator)
        act(clerk, USERS, "deactivate", operator.pk)
        act(clerk, USERS, "end_sessions", operator.pk)
        password = {"password1": "an other horse", "password2": "an other horse"}
        assert clerk.post(f"{USERS}{operator.pk}/password/", password).status_code == 403
        operator.refresh_from_db()
        assert operator.is_active
        assert operator.sessions.filter(ended_at=None).exists()

    def test_an_operator_revokes_no_key_of_staff(self, clerk: Client, operator: User) -> None:
        key, _ = api_keys.create(user=operator, name="deploy")
        act(clerk, KEYS, "revoke", key.pk)
        assert ApiKey.objects.filter(pk=key.pk).exists()

    def test_the_audit_log_cannot_be_changed(self, console: Client, alice: User) -> None:
        audit.record("x", on=alice)
        row = last("x")
        assert console.post(f"{AUDIT}{row.pk}/delete/", {"post": "yes"}).status_code == 403
        assert console.get(f"{AUDIT}add/").status_code == 403
        assert "delete_selected" not in console.get(AUDIT).content.decode()


def user_form(user: User, **fields: str) -> dict[str, str]:
    """What the form of a user sends; the inline of limits as it is while there are none."""
    management = {"TOTAL_FORMS": "1", "INITIAL_FORMS": "0", "MIN_NUM_FORMS": "0", "MAX_NUM_FORMS": "1"}
    return {
        "email": user.email,
        "username": user.username,
        "is_active": "on",
        **{f"limits-{name}": value for name, value in management.items()},
        "limits-0-user": str(user.pk),
        **fields,
    }


class TestWorkers:
    @pytest.mark.parametrize("action, state", [("pause", "pause"), ("drain", "drain"), ("resume", "work")])
    def test_an_action_asks_first_and_is_recorded(
        self, console: Client, operator: User, action: str, state: str
    ) -> None:
        before = "pause" if action == "resume" else "work"
        make_worker("gpu", desired_state=before)
        question = console.post(WORKERS, {"action": action, "index": "0", "_selected_action": ["gpu"]})
        assert "Yes, " in question.content.decode()
        assert Worker.objects.get().desired_state == before
        act(console, WORKERS, action, "gpu")
        row = last(f"worker.{action}")
        assert (row.changes, row.who, row.via) == (
            {"desired_state": [before, state]},
            operator.email,
            "admin",
        )

    def test_the_page_of_one_offers_what_makes_sense(self, console: Client) -> None:
        make_worker("gpu", desired_state="pause", state="paused")
        text = console.get(page_of(WORKERS, "gpu")).content.decode()
        assert ">Resume<" in text
        assert ">Pause<" not in text

    def test_actions_of_the_live_part_return_to_the_page(self, console: Client) -> None:
        make_worker("gpu:1")
        text = console.get(page_of(WORKERS, "gpu:1").replace("change/", "live/")).content.decode()
        assert f'name="next" value="{page_of(WORKERS, "gpu:1")}"' in text
        assert "<html" not in text


class TestModels:
    @pytest.fixture(autouse=True)
    def impatient(self, settings: Any) -> None:
        settings.MODEL_COMMAND_SECONDS = 0

    def test_load_is_the_command_that_the_api_gives(self, console: Client) -> None:
        model = make_model()
        answer = act(console, MODELS, "load", model.pk, worker="")
        command = Command.objects.get()
        assert (command.kind, command.host_id, command.name) == ("load", "gpu", model.name)
        assert "The GPU is busy" in answer.content.decode()
        assert (last("model.load").object_name, last("model.load").via) == (str(model), "admin")

    def test_unload_where_it_is(self, console: Client) -> None:
        model = make_model(loaded_bytes=5)
        act(console, MODELS, "unload", model.pk, worker="gpu")
        assert Command.objects.get().kind == "unload"

    def test_cleanup_of_a_worker(self, console: Client) -> None:
        make_worker("gpu")
        make_model()
        act(console, WORKERS, "cleanup", "gpu", max_age_hours="3")
        assert Command.objects.get().arguments == {"max_age_hours": 3}

    def test_a_download_begins_and_shows_how_far_it_is(self, console: Client, operator: User) -> None:
        make_model()
        sent = {"name": "new.safetensors", "model_type": "lora", "download_url": "https://93.184.215.14/new"}
        answer = console.post(f"{MODELS}download/", sent, follow=True)
        assert "is being downloaded to gpu" in answer.content.decode()
        Download.objects.update(bytes_done=1, bytes_total=4, state="running")
        assert "25 %" in console.get(f"{MODELS}on-their-way/").content.decode()
        assert (Download.objects.get().user, last("model.download").who) == (operator, operator.email)

    def test_a_rejected_download_shows_the_reason_at_its_field(self, console: Client) -> None:
        make_model()
        sent = {"name": "../x.exe", "model_type": "lora", "download_url": "http://127.0.0.1/x"}
        text = console.post(f"{MODELS}download/", sent).content.decode()
        assert text.count("cs-error") >= 2
        assert not Download.objects.exists()


class TestUsers:
    def test_a_change_of_limits_says_from_what_to_what(self, console: Client, alice: User) -> None:
        UserLimits.objects.create(user=alice, executions_running=2)
        form = user_form(alice, **{
            "limits-INITIAL_FORMS": "1", "limits-0-executions_running": "5",
            "limits-0-highest_priority": "low",
        })  # fmt: skip
        assert console.post(page_of(USERS, alice.pk), form).status_code == 302
        row = last("userlimits.change")
        assert row.changes == {"executions_running": [2, 5], "highest_priority": ["", "low"]}
        assert (row.object_id, row.object_type) == (str(alice.pk), "user")

    def test_a_change_of_a_user_too(self, console: Client, alice: User) -> None:
        console.post(page_of(USERS, alice.pk), user_form(alice, username="alicia", is_staff="on"))
        assert last("user.change").changes == {"username": ["alice", "alicia"], "is_staff": [False, True]}

    def test_a_new_password_leaves_one_row_without_it(self, console: Client, alice: User) -> None:
        new = "an other horse battery"
        answer = console.post(f"{USERS}{alice.pk}/password/", {"password1": new, "password2": new})
        assert answer.status_code == 302
        assert last("password.change").object_name == alice.email
        assert not AuditEntry.objects.filter(action="user.change").exists()
        assert new not in str(list(AuditEntry.objects.values()))

    def test_deactivate_ends_everything(self, console: Client, alice: User) -> None:
        sessions.start(user=alice)
        act(console, USERS, "deactivate", alice.pk)
        alice.refresh_from_db()
        assert not alice.is_active
        assert not alice.sessions.filter(ended_at=None).exists()
        assert {last("user.deactivate").object_name, last("session.end").object_name} == {alice.email}

    def test_ending_all_sessions_ends_those_of_the_console_too(self, console: Client) -> None:
        theirs = client_of(make_user("colleague", is_staff=True))
        assert theirs.get("/admin/").status_code == 200
        act(console, USERS, "end_sessions", User.objects.get(username="colleague").pk)
        assert theirs.get("/admin/").status_code == 302
        assert console.get("/admin/").status_code == 200

    def test_the_page_shows_usage(self, console: Client, alice: User) -> None:
        UserLimits.objects.create(user=alice, executions_waiting=10)
        submitted(alice)
        text = console.get(page_of(USERS, alice.pk)).content.decode()
        assert "1 of 10" in text

    def test_revoking_a_key_is_the_apis_own_way(self, console: Client, alice: User) -> None:
        key, _ = api_keys.create(user=alice, name="server")
        act(console, KEYS, "revoke", key.pk)
        assert not ApiKey.objects.exists()
        assert AuditEntry.objects.filter(action__startswith="key.revoke").count() == 1


def test_the_audit_log_is_found_by_who_what_and_request(console: Client, alice: User) -> None:
    from tests.factories import Api

    request_id = Api.of(alice).post("/auth/keys", {"name": "k"})["X-Request-ID"]
    for term in ("alice@", "key.make", request_id):
        text = console.get(AUDIT, {"q": term}).content.decode()
        assert "key.make" in text, term
    assert "key.make" not in console.get(AUDIT, {"q": "bob@"}).content.decode()
