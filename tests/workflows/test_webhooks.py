"""Webhooks: from a status change to a receiver that confirms it, whatever happens in between."""

from __future__ import annotations

import time

import pytest
import redis
import requests
from standardwebhooks import Webhook

from script.harness import graphs
from script.harness.receiver import Receiver, close, say
from script.harness.waiting import wait_for
from tests.services import services


@pytest.fixture
def postman(stack):
    """The stack with the worker that delivers, kept between tests, and started again after a kill."""
    start_postman(stack)
    return stack


def start_postman(stack):
    stack.start_worker("rest-kept", queues="default,models,webhooks", keep=True)


def cancelled(person, receiver, **more) -> str:
    """An execution that was cancelled, and sends nothing but that: no GPU is needed, nor in the way."""
    more = {"webhook_events": ["workflow.cancelled"], **more}
    execution_id = person.execute(graphs.sleep(60), webhook_url=receiver.url, **more)
    assert person.post(f"/workflows/{execution_id}/cancel").status_code == 200
    return execution_id


def deliveries(person, execution_id):
    answer = person.get(f"/workflows/{execution_id}/webhooks")
    assert answer.status_code == 200, answer.text
    return answer.json()


def ended(person, execution_id, *, least=1):
    """The deliveries when there are so many at least, and none of them waits any more."""

    def look():
        found = deliveries(person, execution_id)
        return found if len(found) >= least and all(each["state"] != "waiting" for each in found) else None

    return wait_for(look, seconds=40, what="the end of the deliveries")


def secret_of(person) -> str:
    return person.get("/auth/webhook-secret").json()["secret"]


# -- what is sent ----------------------------------------------------------------------------------------
def test_a_run_is_reported_from_start_to_end_in_order(gpu_worker):
    person = gpu_worker.person()
    with Receiver() as receiver:
        execution_id = person.execute(graphs.colour(0xAA5500), webhook_url=receiver.url)
        started, completed = receiver.wait(2)
    assert [started.event, completed.event] == ["workflow.started", "workflow.completed"]
    body = completed.json
    assert set(body) == {"event", "execution_id", "status", "timestamp", "workflow_result"}
    assert body["execution_id"] == execution_id
    assert body["status"] == "completed"
    result = body["workflow_result"]
    assert result["status"] == "completed"
    assert result["duration_seconds"] >= 0
    [picture] = result["outputs"]["images"]
    assert picture["url"].startswith(gpu_worker.url)
    assert requests.get(picture["url"], timeout=30).status_code == 200
    assert started.json["status"] == started.json["workflow_result"]["status"] == "running"


def test_a_failed_run_is_reported_with_its_error(gpu_worker):
    person = gpu_worker.person()
    graph = graphs.colour(0x010203)
    graph["3"] = {"class_type": "TestFail", "inputs": {"image": ["1", 0], "message": "it broke"}}
    graph["2"]["inputs"]["images"] = ["3", 0]
    with Receiver() as receiver:
        person.execute(graph, webhook_url=receiver.url, webhook_events=["workflow.failed"])
        [call] = receiver.wait()
    assert call.event == "workflow.failed"
    assert call.json["workflow_result"]["error"]


def test_signatures_are_verified_by_the_standards_own_library(postman):
    person = postman.person()
    with Receiver() as receiver:
        cancelled(person, receiver)
        [call] = receiver.wait()
    verified = Webhook(secret_of(person)).verify(call.body, call.headers)
    assert verified["event"] == "workflow.cancelled"
    headers = {name.lower(): value for name, value in call.headers.items()}
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60


def test_only_chosen_events_are_sent(gpu_worker):
    person = gpu_worker.person()
    with Receiver() as receiver:
        execution_id = person.execute(
            graphs.colour(0x123123), webhook_url=receiver.url, webhook_events=["workflow.completed"]
        )
        receiver.wait()
        ended(person, execution_id)
    assert receiver.events() == ["workflow.completed"]


def test_a_retry_inherits_the_webhook(postman):
    person = postman.person()
    with Receiver() as receiver:
        execution_id = cancelled(person, receiver)
        again = person.post(f"/workflows/{execution_id}/retry").json()["execution_id"]
        person.post(f"/workflows/{again}/cancel")
        receiver.wait(2)
    assert {call.json["execution_id"] for call in receiver.calls} == {execution_id, again}


# -- receivers that misbehave ----------------------------------------------------------------------------
def test_500_twice_then_200_is_delivered_under_one_id(postman):
    person = postman.person()
    with Receiver(say(500, "oh"), say(500, "oh"), say(200, "fine")) as receiver:
        execution_id = cancelled(person, receiver)
        calls = receiver.wait(3)
        [delivery] = ended(person, execution_id)
    assert len({call.headers["webhook-id"] for call in calls}) == 1
    assert delivery["state"] == "delivered"
    assert [attempt["status_code"] for attempt in delivery["attempts"]] == [500, 500, 200]
    assert [attempt["answer"] for attempt in delivery["attempts"]] == ["oh", "oh", "fine"]


def test_a_closed_line_is_tried_again(postman):
    person = postman.person()
    with Receiver(close) as receiver:
        [delivery] = ended(person, cancelled(person, receiver))
    assert delivery["state"] == "delivered"
    assert [attempt["status_code"] for attempt in delivery["attempts"]] == [None, 200]


def test_a_receiver_that_hangs_is_left_after_the_timeout_and_tried_again(postman):
    person = postman.person()
    with Receiver() as receiver:
        receiver.script = [receiver.hang]
        [delivery] = ended(person, cancelled(person, receiver))
    first, second = delivery["attempts"]
    assert first["status_code"] is None
    assert 3900 < first["duration_ms"] < 20_000
    assert second["status_code"] == 200


def test_a_receiver_that_refuses_the_connection_gets_it_when_it_is_back(postman):
    person = postman.person()
    with Receiver() as gone:
        pass
    execution_id = cancelled(person, gone)
    wait_for(lambda: deliveries(person, execution_id)[0]["attempts"], what="a first try")
    [delivery] = deliveries(person, execution_id)
    assert delivery["state"] == "waiting"
    assert delivery["next_attempt_at"] is not None
    assert "connection" in delivery["error"]


def test_a_redirect_is_not_followed(postman):
    person = postman.person()
    with Receiver() as elsewhere, Receiver(*[say(302, Location=elsewhere.url)] * 5) as receiver:
        [delivery] = ended(person, cancelled(person, receiver))
        assert elsewhere.calls == []
    assert delivery["state"] == "failed"
    assert "302" in delivery["error"]


def test_410_stops_immediately(postman):
    person = postman.person()
    with Receiver(say(410)) as receiver:
        [delivery] = ended(person, cancelled(person, receiver))
        assert len(receiver.calls) == 1
    assert delivery["state"] == "failed"


def test_other_4xx_are_tried_five_times(postman):
    person = postman.person()
    with Receiver(*[say(400)] * 9) as receiver:
        [delivery] = ended(person, cancelled(person, receiver))
        assert len(receiver.calls) == 5
    assert delivery["state"] == "failed"


def test_retry_after_is_honoured(postman):
    person = postman.person()
    with Receiver(say(503, Retry_After="3")) as receiver:
        execution_id = cancelled(person, receiver)
        first, second = receiver.wait(2)
        assert second.at - first.at > 2.9
        assert ended(person, execution_id)[0]["state"] == "delivered"


def test_an_answer_is_kept_to_its_first_kilobyte(postman):
    person = postman.person()
    with Receiver(say(200, "x" * 5000)) as receiver:
        [delivery] = ended(person, cancelled(person, receiver))
    assert delivery["attempts"][0]["answer"] == "x" * 1024


def test_a_rejected_start_event_is_retried_alongside_the_end_event(gpu_worker):
    person = gpu_worker.person()
    with Receiver(say(400)) as receiver:
        execution_id = person.execute(graphs.colour(0x777777), webhook_url=receiver.url)
        started, completed = ended(person, execution_id, least=2)
    assert receiver.events()[0] == "workflow.started"
    assert sorted(receiver.events()) == ["workflow.completed", "workflow.started", "workflow.started"]
    assert (started["state"], completed["state"]) == ("delivered", "delivered")


def test_a_slow_receiver_delays_no_other(postman):
    person, other = postman.person(), postman.person()
    with Receiver() as slow, Receiver() as quick:
        slow.script = [slow.hang] * 100
        for _ in range(12):
            cancelled(person, slow)
        slow.wait(3)
        cancelled(other, quick)
        quick.wait()
        # In one line with the others it would have come after all twelve.
        assert len({call.headers["webhook-id"] for call in slow.calls}) < 12


# -- faults of ours --------------------------------------------------------------------------------------
def test_a_worker_killed_before_it_recorded_sends_again_under_the_same_id(postman):
    person = postman.person()
    with Receiver() as receiver:
        receiver.script = [receiver.hang]
        execution_id = cancelled(person, receiver)
        receiver.wait()
        postman.workers["rest-kept"].kill()
        start_postman(postman)
        first, second = receiver.wait(2, seconds=40)
        [delivery] = ended(person, execution_id)
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert delivery["state"] == "delivered"


def test_events_recorded_without_a_worker_are_delivered_by_the_next(postman):
    person = postman.person()
    postman.workers["rest-kept"].kill()
    with Receiver() as receiver:
        cancelled(person, receiver)
        start_postman(postman)
        receiver.wait(seconds=40)


def test_an_emptied_valkey_loses_nothing(postman):
    person = postman.person()
    if services.valkey is None:
        pytest.skip("TEST_REDIS_URL names a server that is not ours to empty")
    postman.workers["rest-kept"].kill()
    with Receiver() as receiver:
        executions = [cancelled(person, receiver) for _ in range(5)]
        redis.Redis.from_url(services.redis_url).flushall()
        start_postman(postman)
        receiver.wait(5, seconds=40)
    assert sorted(call.json["execution_id"] for call in receiver.calls) == sorted(executions)


# -- asking for webhooks ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/hook",
        "http://169.254.169.254/latest/meta-data",
        "http://[::ffff:10.0.0.1]/",
        "http://2130706433/",
        "ftp://example.com/",
        "http://user:password@example.com/",
        "no address",
    ],
)
def test_an_address_we_would_never_call_is_refused_at_submit(stack, url):
    body = {"workflow": graphs.colour(1), "webhook_url": url}
    answer = stack.person().post("/workflows/execute", body)
    assert answer.status_code == 400
    assert answer.json()["details"][0]["field"] == "webhook_url"


def test_an_unknown_event_is_refused(stack):
    body = {
        "workflow": graphs.colour(1),
        "webhook_url": "http://127.0.0.77/",
        "webhook_events": ["workflow.exploded"],
    }
    answer = stack.person().post("/workflows/execute", body)
    assert answer.status_code == 400
    assert "workflow.started" in answer.json()["details"][0]["message"]


# -- looking, and sending again --------------------------------------------------------------------------
def test_a_delivery_can_be_sent_again_under_the_same_id(postman):
    person = postman.person()
    with Receiver(say(410)) as receiver:
        execution_id = cancelled(person, receiver)
        [delivery] = ended(person, execution_id)
        answer = person.post(f"/workflows/{execution_id}/webhooks/{delivery['id']}/redeliver")
        assert answer.status_code == 200, answer.text
        first, second = receiver.wait(2)
        assert first.headers["webhook-id"] == second.headers["webhook-id"] == delivery["webhook_id"]
        assert ended(person, execution_id)[0]["state"] == "delivered"


def test_a_delivery_that_waits_is_not_sent_twice(postman):
    person = postman.person()
    with Receiver(say(503, Retry_After="60")) as receiver:
        execution_id = cancelled(person, receiver)
        receiver.wait()
        [delivery] = wait_for(
            lambda: [each for each in deliveries(person, execution_id) if each["attempts"]], what="a try"
        )
        answer = person.post(f"/workflows/{execution_id}/webhooks/{delivery['id']}/redeliver")
    assert answer.status_code == 409


def test_others_see_no_deliveries(postman):
    person, stranger = postman.person(), postman.person()
    with Receiver() as receiver:
        execution_id = cancelled(person, receiver)
        [delivery] = ended(person, execution_id)
    assert stranger.get(f"/workflows/{execution_id}/webhooks").status_code == 404
    path = f"/workflows/{execution_id}/webhooks/{delivery['id']}/redeliver"
    assert stranger.post(path).status_code == 404
    assert (
        person.post(f"/workflows/{execution_id}/webhooks/{delivery['id'] + 99999}/redeliver").status_code
        == 404
    )


# -- the secret ------------------------------------------------------------------------------------------
def test_after_a_rotation_both_secrets_verify(postman):
    person = postman.person()
    old = secret_of(person)
    rotated = person.post("/auth/webhook-secret/rotate", {}).json()
    assert rotated["secret"] != old
    assert [each["secret"] for each in rotated["previous"]] == [old]
    with Receiver() as receiver:
        cancelled(person, receiver)
        [call] = receiver.wait()
    for secret in (old, rotated["secret"]):
        assert Webhook(secret).verify(call.body, call.headers)["status"] == "cancelled"


def test_without_overlap_the_old_secret_ends_at_once(stack):
    person = stack.person()
    old = secret_of(person)
    rotated = person.post("/auth/webhook-secret/rotate", {"overlap_hours": 0}).json()
    assert rotated["previous"] == []
    assert secret_of(person) == rotated["secret"] != old


def test_the_secret_stays_until_it_is_rotated_and_is_each_users_own(stack):
    person, other = stack.person(), stack.person()
    assert secret_of(person) == secret_of(person)
    assert secret_of(person) != secret_of(other)


def test_an_api_key_does_not_get_the_secret(stack):
    person = stack.person()
    key = person.post("/auth/keys", {"name": "server"}).json()["key"]
    answer = requests.get(
        f"{stack.url}/auth/webhook-secret", headers={"Authorization": f"Bearer {key}"}, timeout=30
    )
    assert answer.status_code == 403
