"""The console's files and deliveries."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.files.storage import default_storage
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from accounts.audit_models import AuditEntry
from accounts.models import User
from files.models import File, Pin
from tests.console.operating import (
    DELIVERIES,
    DESTINATIONS,
    FILES,
    SENT_FILES,
    act,
    last,
    make_delivery,
    make_file,
    make_file_delivery,
    page_of,
)
from tests.console.test_executions import submitted
from tests.factories import make_user
from workflows.models import OutputDelivery

pytestmark = pytest.mark.django_db


@pytest.fixture
def alice() -> User:
    return make_user("alice")


class TestFilesAndDeliveries:
    def test_a_file_is_deleted_with_its_bytes(
        self, console: Client, alice: User, django_capture_on_commit_callbacks: Any
    ) -> None:
        file = make_file(alice)
        with django_capture_on_commit_callbacks(execute=True):
            act(console, FILES, "remove", file.pk)
        assert not File.objects.exists()
        assert not default_storage.exists(file.key)
        assert last("file.remove").object_id == file.pk

    def test_a_file_that_is_needed_stays(self, console: Client, alice: User) -> None:
        file = make_file(alice)
        Pin.objects.create(file=file, holder=submitted(alice).pk)
        answer = act(console, FILES, "remove", file.pk)
        assert "needs this file" in answer.content.decode()
        assert File.objects.exists()
        assert not AuditEntry.objects.filter(action="file.remove").exists()

    @pytest.mark.parametrize("wanted", ["id", "sha256", "email"])
    def test_files_are_found_by_id_hash_or_user(self, console: Client, alice: User, wanted: str) -> None:
        file, other = make_file(alice, filename="mine.png"), make_file(make_user("bob"), filename="other.png")
        File.objects.filter(id=file.id).update(sha256="a1" * 32)
        term = {"id": file.id, "sha256": "A1" * 32, "email": "ALICE@example.com"}[wanted]
        page = console.get(FILES, {"q": f" {term} "}).content.decode()
        assert file.filename in page
        assert other.filename not in page

    @pytest.mark.parametrize(
        "chosen, index", [({}, "file_latest"), ({"kind__exact": "upload"}, "file_latest_upload")]
    )
    def test_the_latest_files_have_an_index(
        self, console: Client, chosen: dict[str, str], index: str
    ) -> None:
        """For many rows; with as few as here PostgreSQL takes it only when nothing else is allowed."""
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off")
            with CaptureQueriesContext(connection) as queries:
                console.get(FILES, chosen)
            [listed] = [each["sql"] for each in queries if "ORDER BY" in each["sql"]]
            cursor.execute(f"EXPLAIN {listed}")
            assert f"using {index} " in str(cursor.fetchall())

    @pytest.mark.parametrize("wanted", ["execution_id", "message_id", "host", "email"])
    def test_deliveries_are_found_by_execution_id_host_or_user(
        self, console: Client, alice: User, wanted: str
    ) -> None:
        delivery, other = make_delivery(alice), make_delivery(make_user("bob"))
        type(delivery).objects.filter(id=delivery.id).update(host="mine.example.com:443")
        delivery.refresh_from_db()
        term = alice.email if wanted == "email" else getattr(delivery, wanted)
        page = console.get(DELIVERIES, {"q": f" {term} "}).content.decode()
        assert str(delivery.execution_id) in page
        assert str(other.execution_id) not in page

    @pytest.mark.parametrize("wanted", ["execution_id", "destination", "email"])
    def test_output_deliveries_are_found_by_execution_destination_or_user(
        self, console: Client, alice: User, wanted: str
    ) -> None:
        delivery = make_file_delivery(alice, name="mine")
        other = make_file_delivery(make_user("bob"), name="other")
        term = {"execution_id": delivery.execution_id, "destination": "MINE", "email": alice.email}[wanted]
        page = console.get(SENT_FILES, {"q": str(term)}).content.decode()
        assert str(delivery.execution_id) in page
        assert str(other.execution_id) not in page

    def test_a_delivery_is_sent_again(self, console: Client, alice: User) -> None:
        delivery = make_delivery(alice)
        act(console, DELIVERIES, "redeliver", delivery.pk)
        delivery.refresh_from_db()
        assert delivery.state == "waiting"
        assert last("delivery.redeliver").object_id == str(delivery.pk)

    def test_a_file_is_delivered_again(self, console: Client, alice: User) -> None:
        sent = make_file_delivery(alice, tries=3, error="403")
        assert "Deliver again" in console.get(page_of(SENT_FILES, sent.pk)).content.decode()
        act(console, SENT_FILES, "redeliver", sent.pk)
        sent.refresh_from_db()
        assert (sent.state, sent.tries, sent.error) == ("waiting", 0, "")
        assert last("outputdelivery.redeliver").object_id == str(sent.pk)

    def test_one_for_an_address_of_one_run_is_not(self, console: Client, alice: User) -> None:
        sent = make_file_delivery(alice, destination=None)
        assert 'value="redeliver"' not in console.get(page_of(SENT_FILES, sent.pk)).content.decode()
        answer = act(console, SENT_FILES, "redeliver", sent.pk)
        assert "is no longer stored" in answer.content.decode()
        sent.refresh_from_db()
        assert sent.state == "failed"

    def test_all_that_a_destination_did_not_take_is_delivered_again(
        self, console: Client, alice: User
    ) -> None:
        failed = [make_file_delivery(alice, error="403 from the bucket") for _ in range(3)]
        kept = make_file_delivery(alice, state="delivered")
        page = console.get(page_of(DESTINATIONS, kept.destination_id)).content.decode()
        assert "403 from the bucket" in page
        assert "3 not delivered" in page
        assert "hidden-secret" not in page + console.get(DESTINATIONS).content.decode()
        act(console, DESTINATIONS, "redeliver", kept.destination_id)
        states = OutputDelivery.objects.filter(pk__in=[each.pk for each in failed])
        assert set(states.values_list("state", flat=True)) == {"waiting"}
        kept.refresh_from_db()
        assert kept.state == "delivered"
        assert last("destination.redeliver").object_id == str(kept.destination_id)
        answer = act(console, DESTINATIONS, "redeliver", kept.destination_id)
        assert "nothing failed" in answer.content.decode()

    def test_one_that_waits_is_not(self, console: Client, alice: User) -> None:
        answer = act(console, DELIVERIES, "redeliver", make_delivery(alice, state="waiting").pk)
        assert "is not finished yet" in answer.content.decode()
