"""Files that a destination did not take, delivered again when their user asks for it."""

from __future__ import annotations

from typing import Any

import pytest

from comfyserve import secret_box
from files.models import Destination
from script.harness.receiver import Receiver, say
from script.harness.waiting import wait_for
from tests.api.described import differences
from tests.factories import Api, assert_error, mistakes
from tests.workflows.delivering import GRAPH, delivery, run, send
from workflows.delivery import sender
from workflows.models import Delivery, OutputDelivery


@pytest.fixture(autouse=True)
def private_addresses_may_be_used(settings):
    settings.OUTBOUND_ALLOW = ["127.0.0.1", "127.0.0.77"]
    settings.WEBHOOK_HTTPS_ONLY = False
    settings.WEBHOOK_FIRST_DELAY_SECONDS = 0.0


def redeliver(rig: Any, result: dict[str, Any], **body: Any) -> Any:
    return rig.api.post(f"/workflows/{result['execution_id']}/redeliver", body)


class TestRedelivery:
    @pytest.fixture
    def failed(self, rig, destination) -> dict[str, Any]:
        """A run whose destination rejected its file, and was put in order since."""
        kept = Destination.objects.get().secret
        Destination.objects.update(secret=secret_box.encrypt("revoked"))
        result = run(rig, {"deliver_to": {"destination": "mine"}})
        for _ in range(sender.TRIES_REFUSED):
            send()
        assert delivery(rig, result)[0]["status"] == "failed"
        Destination.objects.update(secret=kept)
        return result

    def test_a_failed_delivery_is_sent_again_to_its_destination(self, rig, destination, failed):
        answer = redeliver(rig, failed)
        assert answer.status_code == 200, answer.content
        assert differences("post", "/workflows/{execution_id}/redeliver", answer) == []
        [waiting] = answer.json()
        assert (waiting["status"], waiting["attempts"], waiting["error"]) == ("waiting", 0, None)
        assert send() == 1
        assert delivery(rig, failed)[0]["status"] == "delivered"
        assert len(destination.keys()) == 1

    def test_its_retries_start_over(self, rig, destination, failed):
        OutputDelivery.objects.update(retried_since="2020-01-01T00:00:00Z")
        redeliver(rig, failed)
        Destination.objects.update(endpoint="http://127.0.0.77:9")
        send()
        assert delivery(rig, failed)[0]["status"] == "waiting"

    def test_a_delivery_that_waits_for_its_next_try_is_sent_now(self, rig, destination, settings):
        settings.WEBHOOK_FIRST_DELAY_SECONDS = 3600.0
        Destination.objects.update(endpoint="http://127.0.0.77:9")
        result = run(rig, {"deliver_to": {"destination": "mine"}})
        assert (send(), send()) == (1, 0)
        Destination.objects.update(endpoint=destination.server.url)
        assert redeliver(rig, result).status_code == 200
        assert send() == 1
        assert delivery(rig, result)[0]["status"] == "delivered"

    def test_another_place_may_be_named(self, rig, bucket, failed):
        answer = redeliver(rig, failed, deliver_to={"url": bucket.presigned("again.png")})
        assert answer.status_code == 200, answer.content
        send()
        assert bucket.keys() == ["again.png"]
        [sent] = delivery(rig, failed)
        assert sent["url"].endswith("/again.png")
        answer = redeliver(rig, failed, files=[sent["file"]], deliver_to={"destination": "mine"})
        assert answer.status_code == 200, answer.content
        send()
        assert len(bucket.keys()) == 2

    def test_an_address_that_was_erased_must_be_given_again(self, rig, bucket):
        with Receiver(*[say(403)] * 3) as receiver:
            result = run(rig, {"deliver_to": {"url": receiver.url}})
            for _ in range(sender.TRIES_REFUSED):
                send()
        refused = assert_error(redeliver(rig, result), 400, "validation_error")
        assert mistakes(refused) == {"deliver_to": "REQUIRED_FIELD"}
        assert redeliver(rig, result, deliver_to={"url": bucket.presigned("x.png")}).status_code == 200
        send()
        assert bucket.keys() == ["x.png"]

    def test_a_delivered_file_is_sent_again_only_if_named(self, rig, destination):
        result = run(rig, {"deliver_to": {"destination": "mine"}})
        send()
        [key] = destination.keys()
        destination.client.delete_object(Bucket=destination.name, Key=key)
        assert_error(redeliver(rig, result), 409, "conflict")
        [name] = [each["file"] for each in delivery(rig, result)]
        assert redeliver(rig, result, files=[name]).status_code == 200
        send()
        assert destination.keys() == [key]

    def test_errors_are_reported_by_field(self, rig, destination, failed):
        name = delivery(rig, failed)[0]["file"]
        bodies: list[tuple[dict[str, Any], str]] = [
            ({"files": [name + "x"]}, "files.0"),
            ({"files": []}, "files"),
            ({"deliver_to": {"destination": "mime"}}, "deliver_to.destination"),
            ({"deliver_to": {"url": "http://10.0.0.1/"}}, "deliver_to.urls.0"),
            ({"deliver_to": {"bucket": "mine"}}, "deliver_to.bucket"),
            ({"deliver_to": {}}, "deliver_to"),
            ({"file": name}, "file"),
        ]
        for body, field in bodies:
            refused = assert_error(redeliver(rig, failed, **body), 400, "validation_error")
            assert list(mistakes(refused)) == [field]
        assert OutputDelivery.objects.get().state == "failed"

    def test_a_delivery_in_progress_is_left_alone(self, rig, destination):
        result = run(rig, {"deliver_to": {"destination": "mine"}})
        [taken] = sender.take(limit=1)
        assert_error(redeliver(rig, result), 409, "conflict")
        sender.deliver(taken)
        assert delivery(rig, result)[0]["status"] == "delivered"

    def test_an_execution_without_deliveries_and_those_of_others(self, rig, bob: Api, destination, failed):
        assert_error(redeliver(rig, run(rig, {})), 409, "conflict")
        assert_error(bob.post(f"/workflows/{failed['execution_id']}/redeliver"), 404, "not_found")

    def test_the_webhook_is_sent_again_as_a_new_message(self, rig, destination):
        with Receiver() as receiver:
            kept = Destination.objects.get().secret
            Destination.objects.update(secret=secret_box.encrypt("revoked"))
            result = run(
                rig, {"deliver_to": {"destination": "mine"}}, webhook_url=receiver.url,
                webhook_events=["workflow.delivered"],
            )  # fmt: skip
            for _ in range(sender.TRIES_REFUSED):
                send()
            told = Delivery.objects.get()
            Delivery.objects.update(state=Delivery.State.DELIVERED)
            Destination.objects.update(secret=kept)
            redeliver(rig, result)
            send()
        again = Delivery.objects.get()
        assert (again.event, again.state) == ("workflow.delivered", "waiting")
        assert again.message_id != told.message_id
        assert again.created_at > told.created_at

    def test_all_of_a_batch_that_failed(self, rig, destination, bob: Api):
        body = {
            "workflow": GRAPH, "inputs": [{"1.color": 1}, {"1.color": 2}],
            "output": {"deliver_to": {"destination": "mine"}},
        }  # fmt: skip
        path = f"/workflows/batches/{rig.api.post('/workflows/batch', body).json()['batch_id']}"
        rig.slots.serve_in_thread()
        wait_for(lambda: rig.api.get(path).json()["status"] == "completed", what="the batch")
        assert rig.api.post(f"{path}/redeliver").json() == {"count": 0}
        OutputDelivery.objects.update(state=OutputDelivery.State.FAILED)
        assert_error(bob.post(f"{path}/redeliver"), 404, "not_found")
        answer = rig.api.post(f"{path}/redeliver")
        assert differences("post", "/workflows/batches/{batch_id}/redeliver", answer) == []
        assert answer.json() == {"count": 2}
        assert send() == 2
        assert len(destination.keys()) == 2
