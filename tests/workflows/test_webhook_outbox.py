"""The outbox and the retry policy, without a receiver."""

from __future__ import annotations

import email.utils
import uuid
from datetime import timedelta

import pytest
from django.db import OperationalError
from django.db.models.functions import Now
from django.utils import timezone

from accounts.models import User
from comfyserve.api.errors import ValidationFailed
from tests.factories import make_user
from workflows.models import TERMINAL, Delivery, Execution, WebhookEvent
from workflows.models.webhook import EVENT_TRAITS, EXECUTION_EVENTS
from workflows.webhooks import dispatcher, outbox
from workflows.webhooks.dispatcher import Answer, Taken, judge

State = Delivery.State


@pytest.fixture
def execution(db) -> Execution:
    user = User.objects.create_user(username="alice", email="alice@example.com", password="x")
    return Execution.objects.create(user=user, timeout_minutes=1, turn=0, start=0, finish=0, cost=1)


@pytest.fixture
def with_webhook(execution: Execution) -> Execution:
    outbox.register(execution, outbox.WebhookRequest("http://127.0.0.77:9/hook", [], "http://localhost"))
    return execution


def taken(*, event: str = "workflow.completed", tries: int = 1, age: timedelta = timedelta()) -> Taken:
    since = timezone.now() - age
    return Taken(
        1, uuid.uuid4(), uuid.uuid4(), 1, event, "msg_1", "http://x/", since, age.total_seconds(), tries
    )


# -- the outbox ------------------------------------------------------------------------------------------
def test_an_event_is_written_once_however_often_it_happens(with_webhook: Execution) -> None:
    for _ in range(2):
        outbox.record([with_webhook.id], event=WebhookEvent.STARTED)
    outbox.record([with_webhook.id], event=WebhookEvent.COMPLETED)
    assert [each.event for each in outbox.deliveries_of(with_webhook)] == [
        "workflow.started",
        "workflow.completed",
    ]


def test_without_a_webhook_nothing_is_written(execution: Execution) -> None:
    outbox.record([execution.id], event=WebhookEvent.COMPLETED)
    assert not Delivery.objects.exists()


def test_the_second_event_is_not_taken_before_the_first_is_done(with_webhook: Execution) -> None:
    for event in (WebhookEvent.STARTED, WebhookEvent.COMPLETED):
        outbox.record([with_webhook.id], event=event)
    assert [each.event for each in dispatcher.take(limit=9)] == ["workflow.started"]
    assert dispatcher.take(limit=9) == []
    Delivery.objects.filter(event="workflow.started").update(state=State.DELIVERED, taken_until=None)
    assert [each.event for each in dispatcher.take(limit=9)] == ["workflow.completed"]


def test_a_delivery_of_a_dead_sender_is_claimed_again_and_its_result_is_fenced(
    with_webhook: Execution,
) -> None:
    outbox.record([with_webhook.id], event=WebhookEvent.COMPLETED)
    [first] = dispatcher.take(limit=9)
    Delivery.objects.update(taken_until=timezone.now() - timedelta(seconds=1))
    [second] = dispatcher.take(limit=9)
    assert first.message_id == second.message_id
    dispatcher._record(first, Answer(200, {}), seconds=0.1)
    assert Delivery.objects.get().state == State.WAITING
    dispatcher._record(second, Answer(200, {}), seconds=0.1)
    assert Delivery.objects.get().state == State.DELIVERED


def test_an_event_held_by_a_dead_sender_is_still_sent_before_the_next(with_webhook: Execution) -> None:
    """It was taken, and never sent: the next one waits until it has been tried."""
    outbox.record([with_webhook.id], event=WebhookEvent.STARTED)
    [first] = dispatcher.take(limit=9)
    outbox.record([with_webhook.id], event=WebhookEvent.COMPLETED)
    Delivery.objects.filter(id=first.id).update(taken_until=timezone.now() - timedelta(seconds=1))
    [again] = dispatcher.take(limit=9)
    assert (again.id, again.event) == (first.id, "workflow.started")


@pytest.mark.django_db(transaction=True)
def test_a_short_database_outage_before_sending_only_delays_it(with_webhook, monkeypatch) -> None:
    answers: list[Exception | bytes] = [OperationalError("the database is unavailable"), b"{}"]

    def body(_: Taken) -> bytes:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(dispatcher, "_body", body)
    monkeypatch.setattr(dispatcher, "_send", lambda *_: Answer(200, {}))
    outbox.record([with_webhook.id], event=WebhookEvent.COMPLETED)
    [first] = dispatcher.take(limit=9)
    dispatcher.deliver(first)
    assert Delivery.objects.get().state == State.DELIVERED


@pytest.mark.django_db(transaction=True)
def test_an_error_of_ours_counts_as_a_try(with_webhook: Execution, monkeypatch) -> None:
    def body(_: Taken) -> bytes:
        raise KeyError("a mistake of ours")

    monkeypatch.setattr(dispatcher, "_body", body)
    outbox.record([with_webhook.id], event=WebhookEvent.STARTED)
    [first] = dispatcher.take(limit=8)
    dispatcher.deliver(first)
    delivery = Delivery.objects.get()
    assert (delivery.state, delivery.tries, delivery.token) == ("waiting", 1, None)
    assert delivery.error.startswith("An internal error of ours")
    assert delivery.due_at > delivery.created_at
    Delivery.objects.update(due_at=Now(), retried_since=Now() - timedelta(days=2))
    [second] = dispatcher.take(limit=8)
    dispatcher.deliver(second)
    assert Delivery.objects.get().state == "failed"


def test_one_host_gets_few_at_once_and_leaves_room_for_others(with_webhook: Execution) -> None:
    crowded, other = "http://127.0.0.77:9/", "http://127.0.0.77:8/"
    for url in [crowded] * 8 + [other]:
        each = Execution.objects.create(
            user=with_webhook.user, timeout_minutes=1, turn=0, start=0, finish=0, cost=1
        )
        outbox.register(each, outbox.WebhookRequest(url, [], "http://localhost"))
        outbox.record([each.id], event=WebhookEvent.COMPLETED)
    found = sorted(each.url for each in dispatcher.take(limit=99))
    assert found == [other] + [crowded] * dispatcher.PER_HOST


def test_one_users_hanging_receivers_delay_no_other_user(with_webhook: Execution) -> None:
    shared = "http://127.0.0.77:9/"
    bob = make_user("bob")
    for user in [with_webhook.user] * 8 + [bob]:
        each = Execution.objects.create(user=user, timeout_minutes=1, turn=0, start=0, finish=0, cost=1)
        outbox.register(each, outbox.WebhookRequest(shared, [], "http://localhost"))
        outbox.record([each.id], event=WebhookEvent.COMPLETED)
    taken = dispatcher.take(limit=99)
    assert sorted(each.user_id for each in taken) == [with_webhook.user_id] * dispatcher.PER_HOST + [bob.pk]


def test_an_end_is_not_held_up_by_a_start_that_was_refused(with_webhook: Execution) -> None:
    outbox.record([with_webhook.id], event=WebhookEvent.STARTED)
    outbox.record([with_webhook.id], event=WebhookEvent.COMPLETED)
    [start] = dispatcher.take(limit=9)
    assert dispatcher.take(limit=9) == []  # it is being sent
    dispatcher._record(start, Answer(500, {}), seconds=0.1)
    assert [each.event for each in dispatcher.take(limit=9)] == ["workflow.completed"]


# -- retries ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "code, tries, state",
    [
        (200, 1, State.DELIVERED), (204, 1, State.DELIVERED), (299, 9, State.DELIVERED),
        (410, 1, State.FAILED),
        (302, 4, State.WAITING), (302, 5, State.FAILED),
        (404, 4, State.WAITING), (404, 5, State.FAILED),
        (429, 20, State.WAITING), (408, 20, State.WAITING), (500, 20, State.WAITING),
        (None, 20, State.WAITING),
    ],
)  # fmt: skip
def test_how_a_response_is_judged(code: int | None, tries: int, state: str) -> None:
    assert judge(taken(tries=tries), Answer(code, {}, error="" if code else "no line")).state == state


def test_the_delay_doubles_up_to_a_limit(settings) -> None:
    settings.WEBHOOK_FIRST_DELAY_SECONDS = 5.0
    delays = [judge(taken(tries=tries), Answer(500, {})).delay for tries in (1, 2, 3, 40)]
    for delay, about in zip(delays, (5, 10, 20, dispatcher.LONGEST_DELAY), strict=True):
        assert 0.8 * about <= delay <= 1.2 * about


def test_it_is_given_up_when_the_time_is_over(settings) -> None:
    settings.WEBHOOK_RETRY_HOURS = 24
    assert judge(taken(age=timedelta(hours=23)), Answer(500, {})).state == State.WAITING
    verdict = judge(taken(age=timedelta(hours=25)), Answer(500, {}))
    assert verdict.state == State.FAILED
    assert "given up" in verdict.error


def test_a_wrong_clock_of_the_sender_gives_nothing_up(with_webhook: Execution, monkeypatch) -> None:
    outbox.record([with_webhook.id], event=WebhookEvent.COMPLETED)
    [first] = dispatcher.take(limit=1)
    late = timezone.now() + timedelta(days=2)
    monkeypatch.setattr(timezone, "now", lambda: late)
    assert judge(first, Answer(500, {})).state == State.WAITING


def test_retry_after_may_be_a_date() -> None:
    date = email.utils.format_datetime(timezone.now() + timedelta(seconds=100))
    assert 90 < judge(taken(), Answer(503, {"Retry-After": date})).delay < 101
    assert judge(taken(), Answer(503, {"Retry-After": "soon"})).delay < 10


@pytest.mark.parametrize(
    "value",
    ["\u00b2", "-1", "Mon, 01 Jan 2024 00:00:00 +9999999999999999999", "Mon, 99 Jan 99999 00:00:00 GMT"],
)
def test_a_retry_after_that_means_nothing_is_ignored(value) -> None:
    assert judge(taken(), Answer(503, {"Retry-After": value})).delay < 10


def test_an_address_that_turned_out_private_is_not_tried_again() -> None:
    answer = Answer(None, {}, error="The host x is not one of the public internet", final=True)
    verdict = judge(taken(), answer)
    assert (verdict.state, verdict.error) == (State.FAILED, answer.error)


# -- asking and sending again ----------------------------------------------------------------------------
def test_https_only_refuses_plain_http(settings) -> None:
    settings.WEBHOOK_HTTPS_ONLY = True
    with pytest.raises(ValidationFailed) as caught:
        outbox.check(outbox.WebhookRequest("http://93.184.216.34/hook", [], ""))
    assert "https://" in caught.value.details[0].message
    outbox.check(outbox.WebhookRequest("https://93.184.216.34/hook", [], ""))


def test_every_event_says_what_it_means() -> None:
    assert set(EVENT_TRAITS) == set(WebhookEvent)
    assert [WebhookEvent.at_end(status) for status in TERMINAL] == [
        event for event in EXECUTION_EVENTS if event.traits.is_terminal
    ]
