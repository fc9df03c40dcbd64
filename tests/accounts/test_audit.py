"""The audit log: which actions are recorded, limits on refused logins, append-only, no secrets."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import DatabaseError, transaction
from django.test import Client

from accounts import audit, cleaning, throttling
from accounts.audit_models import AuditEntry
from accounts.models import ApiKey, User
from comfyserve.cleaning import run
from tests.accounts.test_login import log_in
from tests.factories import HANDLER, PASSWORD, Api, make_user


def last(action: str) -> AuditEntry:
    return AuditEntry.objects.filter(action=action).latest("id")


def count_of(action: str) -> int:
    return AuditEntry.objects.filter(action=action).count()


class TestWhatIsRecorded:
    def test_a_login_says_who_and_from_where(self, alice: User, stranger: Api) -> None:
        answer = log_in(stranger, REMOTE_ADDR="10.1.2.3", headers={"User-Agent": "curl/8"})
        row = last("login")
        assert (row.actor, row.who, row.via, row.address) == (alice.pk, alice.email, "api", "10.1.2.3")
        assert (row.request_id, row.note) == (answer["X-Request-ID"], "curl/8")

    def test_a_refused_login_names_the_account_and_no_actor(self, alice: User, stranger: Api) -> None:
        log_in(stranger, password="wrong", REMOTE_ADDR="10.1.2.3")
        row = last("login.refused")
        assert (row.actor, row.who, row.object_name, row.address) == (None, "", alice.email, "10.1.2.3")

    def test_a_password_typed_as_an_address_is_not_written(self, alice: User, stranger: Api) -> None:
        log_in(stranger, f"{PASSWORD.replace(' ', '')}@example.com")
        row = last("login.refused")
        assert (row.object_name, row.object_id) == ("", "")
        assert "correct" not in str(AuditEntry.objects.filter(id=row.id).values())

    def test_an_operators_login_to_the_admin_and_logout(self, db: None) -> None:
        operator = make_user("operator", password=PASSWORD, is_staff=True)
        client = Client(raise_request_exception=False)
        client.handler = HANDLER
        client.post("/admin/login/", {"username": operator.email, "password": "wrong"})
        refused = last("login.refused")
        client.post("/admin/login/", {"username": operator.email, "password": PASSWORD})
        client.post("/admin/logout/")
        assert [(row.via, row.object_name) for row in (refused, last("login"), last("logout"))] == [
            ("admin", operator.email)
        ] * 3
        assert last("logout").actor == operator.pk

    def test_a_logout_from_everywhere_is_one_row(self, alice: User, as_alice: Api) -> None:
        log_in(as_alice)
        as_alice.post("/auth/logout", {"everywhere": True})
        assert last("session.end").note == "2 sessions: everywhere"

    def test_a_password_change_leaves_no_password(self, alice: User, as_alice: Api) -> None:
        new = "another horse battery"
        given = {"current_password": PASSWORD, "new_password": new}
        assert as_alice.post("/auth/password", given).status_code == 200
        assert (last("password.change").who, last("session.end").note) == (
            alice.email,
            "1 session: password",
        )
        assert new not in str(list(AuditEntry.objects.values()))

    def test_a_new_hash_of_the_same_password_is_no_change(self, alice: User, stranger: Api) -> None:
        from django.contrib.auth.hashers import make_password

        User.objects.filter(pk=alice.pk).update(password=make_password(PASSWORD, hasher="pbkdf2_sha256"))
        assert log_in(stranger).status_code == 200
        alice.refresh_from_db()
        assert alice.password.startswith("argon2")
        assert count_of("password.change") == 0

    def test_keys_made_and_revoked(self, alice: User, as_alice: Api) -> None:
        made = as_alice.post("/auth/keys", {"name": "server"}).json()
        as_alice.delete(f"/auth/keys/{made['id']}")
        for action in ("key.make", "key.revoke"):
            row = last(action)
            assert (row.object_type, row.object_id, row.who) == ("apikey", str(made["id"]), alice.email)
        assert made["key"] not in str(list(AuditEntry.objects.values()))

    def test_a_webhook_secret_rotated(self, as_alice: Api) -> None:
        secret = as_alice.post("/auth/webhook-secret/rotate", {}).json()["secret"]
        assert last("webhook_secret.rotate").note == "the old one signs for 24 hours more"
        assert secret not in str(list(AuditEntry.objects.values()))

    def test_a_command_is_the_system(self, alice: User) -> None:
        audit.record("user.change", on=alice)
        assert (last("user.change").via, last("user.change").actor) == ("system", None)


class TestTheRows:
    def test_a_rolled_back_change_leaves_no_row(self, alice: User) -> None:
        with transaction.atomic():
            audit.record("user.change", on=alice)
            transaction.set_rollback(True)
        assert count_of("user.change") == 0

    def test_secrets_in_texts_and_fields_are_masked(self, alice: User) -> None:
        changes: dict[str, tuple[Any, Any]] = {
            "webhook_secret": ("old-value", "new-value"),
            "url": ("", "https://me:hunter22@example.com"),
        }
        audit.record("x", on=alice, changes=changes, note="Bearer abcdefgh12345678")
        row = last("x")
        assert row.changes == {"webhook_secret": ["***", "***"], "url": ["", "https://me:***@example.com"]}
        assert row.note == "Bearer ***"

    def test_nothing_is_too_long_or_too_strange_for_a_row(self, alice: User) -> None:
        key = ApiKey(pk=1, user=alice, name="\0\ud800" + "x" * 1000)
        audit.record_each("x", on=[key, key], changes={"name": (float("inf"), "y" * 9000)}, note="z" * 9000)
        assert count_of("x") == 2

    def test_the_database_refuses_to_change_one(self, alice: User) -> None:
        audit.record("x", on=alice)
        with pytest.raises(DatabaseError), transaction.atomic():
            AuditEntry.objects.update(action="y")
        assert count_of("x") == 1

    def test_old_ones_go_by_the_setting(self, alice: User, settings) -> None:
        audit.record_each("x", on=[alice] * 5)
        settings.AUDIT_DAYS = 0
        run(cleaning.clean)
        assert count_of("x") == 5
        settings.AUDIT_DAYS = -1  # all of them are older than tomorrow
        run(cleaning.clean)
        assert count_of("x") == 0


class TestStrangers:
    def test_refusals_of_one_address_are_few_and_the_last_says_so(
        self, db: None, stranger: Api, monkeypatch
    ) -> None:
        monkeypatch.setattr(throttling, "RECORDED_REFUSALS_PER_ADDRESS", throttling.Window(2, 3600))
        for n in range(4):
            log_in(stranger, f"nobody{n}@example.com")
        notes = list(
            AuditEntry.objects.filter(action="login.refused").order_by("id").values_list("note", flat=True)
        )
        assert len(notes) == 2
        assert "not recorded individually" in notes[-1]

    def test_refusals_of_many_addresses_are_few_too(self, db: None, stranger: Api, monkeypatch) -> None:
        monkeypatch.setattr(throttling, "RECORDED_REFUSALS", throttling.Window(3, 3600))
        for n in range(5):
            log_in(stranger, f"nobody{n}@example.com", REMOTE_ADDR=f"10.0.1.{n}")
        assert count_of("login.refused") == 3

    def test_throttled_requests_are_reported_too(self, alice: User, stranger: Api, monkeypatch) -> None:
        monkeypatch.setattr(throttling, "FROM_ADDRESS_AT_ACCOUNT", throttling.Window(1, 900))
        log_in(stranger, password="wrong")
        assert log_in(stranger, password="wrong").status_code == 429
        assert last("login.refused").note == "too many attempts"
