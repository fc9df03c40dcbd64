"""`output.deliver_to`: files into a saved bucket or to presigned URLs, on a real S3 server."""

from __future__ import annotations

import logging

import pytest

from comfyserve import secret_box
from files import destinations
from files.models import Destination
from script.harness.receiver import Receiver, say
from script.harness.waiting import wait_for
from tests.api.described import differences
from tests.factories import Api, assert_error, mistakes
from tests.workflows.delivering import GRAPH, delivery, run, send
from workflows.delivery import sender
from workflows.models import Delivery, Graph, OutputDelivery


@pytest.fixture(autouse=True)
def private_addresses_may_be_used(settings):
    settings.OUTBOUND_ALLOW = ["127.0.0.1", "127.0.0.77"]
    settings.WEBHOOK_HTTPS_ONLY = False
    settings.WEBHOOK_FIRST_DELAY_SECONDS = 0.0


class TestToABucket:
    def test_the_file_is_put_under_the_executions_id(self, rig, destination):
        result = run(rig, {"deliver_to": {"destination": "mine"}})
        [image] = result["outputs"]["images"]
        [waiting] = result["delivery"]
        assert (waiting["status"], waiting["attempts"]) == ("waiting", 0)
        assert send() == 1
        key = f"renders/today/{result['execution_id']}/{image['filename']}"
        assert destination.keys() == [key]
        content, content_type = destination.read(key)
        assert (len(content), content_type) == (image["size"], "image/png")
        [sent] = delivery(rig, result)
        assert sent == {
            "file": image["filename"], "status": "delivered", "attempts": 1, "error": None,
            "url": f"{destination.server.url}/{destination.name}/{key}", "next_attempt_at": None,
        }  # fmt: skip
        assert send() == 0

    def test_the_converted_output_is_delivered(self, rig, destination):
        result = run(rig, {"format": "webp", "deliver_to": {"destination": "mine"}})
        send()
        [key] = destination.keys()
        assert key.endswith(".webp")
        content, content_type = destination.read(key)
        assert (content[8:12], content_type) == (b"WEBP", "image/webp")
        assert delivery(rig, result)[0]["file"] == result["outputs"]["images"][0]["converted"]["filename"]

    def test_files_of_the_same_name_do_not_replace_each_other(self, rig, destination):
        graph = {**GRAPH, "3": {**GRAPH["2"], "inputs": {"images": ["1", 0], "filename_prefix": "a/colour"}}}
        result = run(rig, {"deliver_to": {"destination": "mine"}}, graph)
        send()
        assert len(destination.keys()) == 2
        assert {each["status"] for each in delivery(rig, result)} == {"delivered"}

    def test_delivery_to_an_unavailable_bucket_is_retried(self, rig, destination, monkeypatch):
        Destination.objects.update(endpoint="http://127.0.0.77:9")
        result = run(rig, {"deliver_to": {"destination": "mine"}})
        assert send() == 1
        [waiting] = delivery(rig, result)
        assert (waiting["status"], waiting["attempts"]) == ("waiting", 1)
        assert waiting["error"] == "The connection could not be made, or broke"
        Destination.objects.update(endpoint=destination.server.url)
        assert send() == 1
        assert delivery(rig, result)[0]["status"] == "delivered"

    def test_an_error_of_ours_counts_as_a_try(self, rig, destination, monkeypatch):
        def put(*_: object, **__: object) -> None:
            raise KeyError("a mistake of ours")

        monkeypatch.setattr("workflows.delivery.sender.client.put", put)
        run(rig, {"deliver_to": {"destination": "mine"}})
        assert send() == 1
        [row] = OutputDelivery.objects.all()
        assert (row.state, row.tries, row.token) == ("waiting", 1, None)
        assert row.error.startswith("An internal error of ours")

    def test_delivery_to_a_bucket_that_refuses_fails_soon(self, rig, destination):
        Destination.objects.update(secret=secret_box.encrypt("changed since"))
        result = run(rig, {"deliver_to": {"destination": "mine"}})
        for _ in range(sender.TRIES_REFUSED):
            assert send() == 1
        assert send() == 0
        [failed] = delivery(rig, result)
        assert failed["status"] == "failed"
        assert failed["error"] == "Not delivered: the server responded with 403 (SignatureDoesNotMatch)"

    def test_delivery_to_a_deleted_destination_reports_it(self, rig, destination):
        result = run(rig, {"deliver_to": {"destination": "mine"}})
        assert rig.api.delete("/destinations/mine").status_code == 200
        send()
        [failed] = delivery(rig, result)
        assert (failed["status"], failed["error"]) == ("failed", "The destination was deleted")

    def test_a_webhook_is_sent_when_nothing_can_be_delivered(self, rig, destination):
        with Receiver() as receiver:
            body = {
                "workflow": GRAPH, "output": {"deliver_to": {"destination": "mine"}},
                "webhook_url": receiver.url, "webhook_events": ["workflow.delivered"],
            }  # fmt: skip
            execution_id = rig.api.post("/workflows/execute", body).json()["execution_id"]
            rig.api.delete("/destinations/mine")
            rig.slots.serve_in_thread()
            rig.ends(execution_id, "completed")
        assert Delivery.objects.get().event == "workflow.delivered"

    def test_delivery_of_a_deleted_file_reports_it(self, rig, destination):
        result = run(rig, {"deliver_to": {"destination": "mine"}})
        rig.api.delete(f"/files/{result['outputs']['images'][0]['file_id']}")
        send()
        assert "was deleted" in delivery(rig, result)[0]["error"]

    def test_a_sender_that_died_is_followed_by_another(self, rig, destination):
        result = run(rig, {"deliver_to": {"destination": "mine"}})
        [lost] = sender.take(limit=1)
        assert sender.take(limit=1) == []
        OutputDelivery.objects.update(taken_until="2020-01-01T00:00:00Z")
        assert send() == 1
        sender.deliver(lost)  # it wakes up: nothing of it counts any more
        assert [(each["status"], each["attempts"]) for each in delivery(rig, result)] == [("delivered", 2)]

    def test_all_of_a_batch_go_there(self, rig, destination):
        body = {
            "workflow": GRAPH, "inputs": [{"1.color": 1}, {"1.color": 2}],
            "output": {"deliver_to": {"destination": "mine"}},
        }  # fmt: skip
        batch = rig.api.post("/workflows/batch", body).json()
        rig.slots.serve_in_thread()
        path = f"/workflows/batches/{batch['batch_id']}"
        wait_for(lambda: rig.api.get(path).json()["status"] == "completed", what="the batch")
        assert send() == 2
        assert len(destination.keys()) == 2

    def test_a_webhook_is_sent_when_all_deliveries_are_done(self, rig, destination):
        with Receiver() as receiver:
            run(
                rig, {"deliver_to": {"destination": "mine"}}, webhook_url=receiver.url,
                webhook_events=["workflow.delivered"],
            )  # fmt: skip
            assert not Delivery.objects.exists()
            send()
        assert Delivery.objects.get().event == "workflow.delivered"


class TestToAnAddress:
    def test_a_presigned_address_takes_the_first_file(self, rig, bucket, caplog):
        caplog.set_level(logging.DEBUG)
        url = bucket.presigned("result.png")
        caplog.clear()  # the test's own client tells all
        result = run(rig, {"deliver_to": {"url": url}})
        signature = url.partition("X-Amz-Signature=")[2][:20]
        stored = OutputDelivery.objects.get()
        graph = Graph.objects.get(execution_id=result["execution_id"])
        assert signature not in f"{stored.secret_url} {stored.url} {graph.output}"
        assert graph.output["deliver_to"] == {}, "nothing is kept beyond the run"
        send()
        assert bucket.read("result.png")[1] == "image/png"
        [sent] = delivery(rig, result)
        assert sent["status"] == "delivered"
        assert sent["url"] == f"{bucket.server.url}/{bucket.name}/result.png"
        stored.refresh_from_db()
        assert stored.secret_url == ""
        assert signature not in caplog.text

    def test_several_take_the_files_in_their_order(self, rig, bucket):
        two = {**GRAPH, "3": {**GRAPH["2"], "inputs": {"images": ["1", 0], "filename_prefix": "b"}}}
        three = {**two, "4": {**GRAPH["2"], "inputs": {"images": ["1", 0], "filename_prefix": "c"}}}
        urls = [bucket.presigned("first.png"), bucket.presigned("second.png")]
        result = run(rig, {"deliver_to": {"urls": urls}}, three)
        send()
        assert sorted(bucket.keys()) == ["first.png", "second.png"]
        assert [each["status"] for each in delivery(rig, result)] == ["delivered", "delivered", "failed"]
        assert delivery(rig, result)[2]["error"] == "No URL was given for this file"

    def test_it_is_erased_where_nothing_is_made(self, rig, bucket):
        body = {"workflow": GRAPH, "output": {"deliver_to": {"url": bucket.presigned("x")}}}
        execution_id = rig.api.post("/workflows/execute", body).json()["execution_id"]
        assert "urls" in Graph.objects.get(execution_id=execution_id).output["deliver_to"]
        rig.api.post(f"/workflows/{execution_id}/cancel")
        assert Graph.objects.get(execution_id=execution_id).output["deliver_to"] == {}
        again = rig.api.post(f"/workflows/{execution_id}/retry").json()["execution_id"]
        assert Graph.objects.get(execution_id=again).output == {}, "addresses are for one run"

    def test_redirects_are_not_followed(self, rig):
        with Receiver(*[say(307, location="http://127.0.0.1:1/")] * 3) as receiver:
            result = run(rig, {"deliver_to": {"url": f"{receiver.url}?key=1"}})
            for _ in range(sender.TRIES_REFUSED):
                send()
        [failed] = delivery(rig, result)
        assert (failed["status"], failed["url"]) == ("failed", receiver.url)


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        "wanted, field",
        [
            ({}, "output.deliver_to"),
            ({"url": "https://example.com/x", "destination": "mine"}, "output.deliver_to"),
            ({"bucket": "mine"}, "output.deliver_to.bucket"),
            ({"destination": "mine"}, "output.deliver_to.destination"),
            ({"url": "ftp://example.com/x"}, "output.deliver_to.urls.0"),
            ({"url": "http://10.0.0.1/x"}, "output.deliver_to.urls.0"),
            ({"urls": []}, "output.deliver_to.urls"),
        ],
    )
    @pytest.mark.parametrize("path", ["/workflows/execute", "/workflows/validate"])
    def test_errors_are_reported_by_field(self, alice: Api, path, wanted, field):
        body = {"workflow": GRAPH, "output": {"deliver_to": wanted}}
        assert field in mistakes(assert_error(alice.post(path, body), 400, "validation_error"))

    def test_a_batch_takes_no_addresses(self, alice: Api):
        body = {
            "workflow": GRAPH, "inputs": [{"1.color": 1}],
            "output": {"deliver_to": {"url": "http://127.0.0.1/x"}},
        }  # fmt: skip
        answer = assert_error(alice.post("/workflows/batch", body), 400, "validation_error")
        assert mistakes(answer) == {"output.deliver_to.urls": "INVALID_VALUE"}

    def test_another_users_destination_is_not_known(self, alice: Api, bob: Api, bucket):
        assert bob.post("/destinations/", bucket.saved).status_code == 201
        body = {"workflow": GRAPH, "output": {"deliver_to": {"destination": "mine"}}}
        assert_error(alice.post("/workflows/execute", body), 400, "validation_error")


class TestDestinations:
    def test_it_is_tested_and_its_secret_is_never_shown(self, alice: Api, bucket):
        answer = alice.post("/destinations/", bucket.saved)
        assert answer.status_code == 201, answer.content
        shown = answer.json()
        assert shown["name"] == "mine"
        assert shown["region"] == "us-east-1"
        assert bucket.keys() == [], "the test file is gone"
        for text in (
            answer.content,
            alice.get("/destinations/").content,
            alice.get("/destinations/mine").content,
        ):
            assert bucket.server.secret_key.encode() not in text
            assert b"secret" not in text
        assert bucket.server.secret_key not in Destination.objects.get().secret
        assert_error(alice.post("/destinations/", bucket.saved), 409, "conflict")

    @pytest.mark.parametrize(
        "change, field",
        [
            ({"bucket": "?"}, "bucket"),
            ({"secret_key": "wrong"}, "secret_key"),
            ({"access_key": "nobody"}, "access_key"),
            ({"endpoint": "http://127.0.0.77:9"}, "endpoint"),
            ({"endpoint": "http://10.1.2.3"}, "endpoint"),
            ({"endpoint": "s3.example.com"}, "endpoint"),
            ({"endpoint": "http:///10.1.2.3"}, "endpoint"),
            ({"endpoint": "http://me@s3.example.com"}, "endpoint"),
            ({"name": "My Bucket"}, "name"),
        ],
    )
    def test_a_failing_destination_is_reported_by_field_and_not_saved(
        self, alice: Api, bucket, change, field
    ):
        answer = alice.post("/destinations/", {**bucket.saved, **change})
        assert field in mistakes(assert_error(answer, 400, "validation_error"))
        assert not Destination.objects.exists()

    def test_it_is_tested_again_when_it_changes(self, alice: Api, bucket):
        alice.post("/destinations/", bucket.saved)
        changed = alice("patch", "/destinations/mine", {"prefix": "elsewhere"})
        assert differences("patch", "/destinations/{destination}", changed) == []
        assert changed.status_code == 200, changed.content
        assert changed.json()["prefix"] == "elsewhere"
        refused = alice("patch", "/destinations/mine", {"secret_key": "wrong"})
        assert_error(refused, 400, "validation_error")
        found = Destination.objects.get()
        assert destinations.signed_url(found, "x")  # the old secret is still there
        assert found.prefix == "elsewhere"

    def test_the_secret_is_not_sent_to_another_address(self, alice: Api, bucket):
        alice.post("/destinations/", bucket.saved)
        answer = alice("patch", "/destinations/mine", {"endpoint": "http://127.0.0.77:9"})
        assert mistakes(assert_error(answer, 400, "validation_error")) == {"secret_key": "REQUIRED_FIELD"}

    def test_it_can_be_read_after_the_key_was_changed(self, alice: Api, bucket, settings):
        alice.post("/destinations/", bucket.saved)
        settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "another" * 10, [settings.SECRET_KEY]
        assert destinations.signed_url(Destination.objects.get(), "x")

    def test_others_do_not_see_it(self, alice: Api, bob: Api, bucket):
        alice.post("/destinations/", bucket.saved)
        assert bob.get("/destinations/").json() == []
        assert_error(bob.get("/destinations/mine"), 404, "not_found")
        assert_error(bob.delete("/destinations/mine"), 404, "not_found")
