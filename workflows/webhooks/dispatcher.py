"""Sends what is due in the outbox, within limits per user and host, and interprets the responses.

Deliveries of one execution are sent in order, one at a time; after an error response the next ones no longer
wait for it. Concurrency is limited per host and per user, so a slow or dead receiver does not delay others. A
delivery is claimed for a limited time while it is sent; if the sender dies, the claim expires and it is sent
again: at least once, with the same `webhook-id`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now
from django.utils import timezone

from comfyserve.api.rendering import rendered
from comfyserve.db import connections
from comfyserve.db.locks import AdvisoryLock
from comfyserve.outbound import client
from comfyserve.outbound.header_values import seconds_until
from workflows.metrics import store
from workflows.models import Delivery, DeliveryAttempt, Execution, WebhookEvent
from workflows.presentation import batch_selectors, representations, selectors

from . import deliverer, signing

logger = logging.getLogger(__name__)

SENDERS = 32  # threads; they spend nearly all of their time waiting for receivers
PER_HOST, PER_USER = 3, 8  # concurrent deliveries per user, per host and in all
HOST_IN_ALL = 12  # per host, over all users: one user's hanging receivers must not use up the slots of others
LONGEST_DELAY = 2 * 3600.0  # seconds between attempts
TRIES_REFUSED = 5  # 4xx and 3xx responses
# An earlier event that its receiver keeps rejecting must not hold back the final event for a day.
TRIES_BEFORE_END = 8
STORED_BODY = 1024  # characters
GONE = 410


@dataclass(frozen=True)
class Taken:
    """A claimed delivery; `token` fences the writes of its outcome."""

    id: int
    token: UUID
    execution_id: UUID
    user_id: int
    event: str
    message_id: str
    url: str
    created_at: datetime
    age: float  # seconds since the first attempt, by the database's clock
    tries: int  # including this one


@dataclass(frozen=True)
class Answer:
    """The outcome of an attempt. `status_code` None: no response, `error` says why."""

    status_code: int | None
    headers: Mapping[str, str]
    body: str = ""
    error: str = ""
    final: bool = False  # retrying cannot help


# -- due deliveries --------------------------------------------------------------------------------------
_TAKE = """
WITH busy AS (
    SELECT host, user_id FROM workflows_delivery
    WHERE state = 'waiting' AND taken_until > statement_timestamp()
), due AS (
    SELECT id, host, user_id, due_at,
        row_number() OVER (PARTITION BY host, user_id ORDER BY due_at, id)
            + (SELECT count(*) FROM busy WHERE busy.host = d.host AND busy.user_id = d.user_id) AS at_host
    FROM workflows_delivery d
    WHERE state = 'waiting' AND due_at <= statement_timestamp()
        AND (taken_until IS NULL OR taken_until <= statement_timestamp())
        AND NOT EXISTS (
            SELECT 1 FROM workflows_delivery earlier
            WHERE earlier.execution_id = d.execution_id AND earlier.id < d.id AND earlier.state = 'waiting'
                -- A delivery that was rejected and waits for its next attempt does not block later ones. It
                -- has no token; one whose sender holds it, or died holding it, has a token.
                AND (earlier.tries = 0 OR earlier.token IS NOT NULL))
), possible AS (
    -- Ranked only within each host's limit, so that a busy host does not use up the slots of others.
    SELECT id, at_host,
        row_number() OVER (PARTITION BY host ORDER BY at_host, due_at, id)
            + (SELECT count(*) FROM busy WHERE busy.host = due.host) AS of_host,
        row_number() OVER (PARTITION BY user_id ORDER BY due_at, id)
            + (SELECT count(*) FROM busy WHERE busy.user_id = due.user_id) AS of_user
    FROM due WHERE at_host <= %(per_host)s
), chosen AS (
    SELECT id FROM possible WHERE of_user <= %(per_user)s AND of_host <= %(host_in_all)s
    ORDER BY at_host, of_user, id LIMIT %(limit)s
)
UPDATE workflows_delivery d SET token = gen_random_uuid(), tries = tries + 1,
    taken_until = statement_timestamp() + make_interval(secs => %(seconds)s)
FROM chosen WHERE d.id = chosen.id
RETURNING d.id, d.token, d.execution_id, d.user_id, d.event, d.message_id, d.url, d.created_at,
    extract(epoch FROM statement_timestamp() - d.retried_since)::float AS age, d.tries
"""


def take(*, limit: int) -> list[Taken]:
    """Claim as many due deliveries as may be sent now, for three timeouts."""
    parameters = {
        "limit": limit,
        "per_host": PER_HOST,
        "per_user": PER_USER,
        "host_in_all": HOST_IN_ALL,
        "seconds": settings.WEBHOOK_TIMEOUT_SECONDS * 3,
    }
    return deliverer.claim(Taken, _TAKE, parameters, lock=AdvisoryLock.WEBHOOKS)


# -- sending ---------------------------------------------------------------------------------------------
def deliver(taken: Taken, *, stop: threading.Event | None = None) -> None:
    """Make one attempt and record its outcome."""
    began = time.monotonic()
    try:
        body, headers = connections.retry_until_available(lambda: _message(taken), stop=stop)
        began = time.monotonic()
        answer = _send(taken.url, body, headers)
    except Execution.DoesNotExist:
        return  # the execution was deleted, and this row with it
    except connections.UNAVAILABLE:
        raise  # this process stops; another one sends it
    except Exception:  # counted as a try, or it would be repeated indefinitely
        logger.exception("webhook %s of %s could not be sent", taken.event, taken.execution_id)
        answer = Answer(None, {}, error=deliverer.INTERNAL_ERROR)
    seconds = time.monotonic() - began
    connections.retry_until_available(lambda: _record(taken, answer, seconds=seconds), stop=stop)


def _message(taken: Taken) -> tuple[bytes, dict[str, str]]:
    """Body and headers."""
    body = _body(taken)
    return body, _headers(taken, body)


def _body(taken: Taken) -> bytes:
    """Built for each attempt, so that its links are fresh; the event itself stays the same."""
    if taken.event == WebhookEvent.BATCH_COMPLETED:
        return _batch_body(taken)
    found = selectors.whole(taken.execution_id)
    if found is None:
        raise Execution.DoesNotExist
    execution = found.execution
    result = representations.result_of(found, base=execution.webhook.base)
    traits = WebhookEvent(taken.event).traits
    status = traits.status
    if not traits.has_result:
        # It describes that moment even if it is sent late; the end has its own event.
        result |= {"status": status, "completed_at": None, "duration_seconds": None, "outputs": {}}
        result |= {"error": None, "error_details": None}
    payload = {
        "event": taken.event,
        "execution_id": execution.id,
        "status": status,
        "timestamp": taken.created_at,
        "workflow_result": result,
    }
    return rendered(payload)


def _batch_body(taken: Taken) -> bytes:
    execution = Execution.objects.select_related("batch").get(id=taken.execution_id)
    batch = execution.batch
    if batch is None:  # it was retried in the meantime and has left the batch
        raise Execution.DoesNotExist
    payload = {
        "event": taken.event,
        "batch_id": batch.id,
        "timestamp": taken.created_at,
        "batch": batch_selectors.shown([batch])[0],
        "executions": batch_selectors.members(batch_selectors.executions_of(batch)),
    }
    return rendered(payload)


def _headers(taken: Taken, body: bytes) -> dict[str, str]:
    timestamp = time.time()
    return {
        "Content-Type": "application/json",
        "webhook-id": taken.message_id,
        "webhook-timestamp": str(int(timestamp)),
        "webhook-signature": signing.signatures(
            taken.message_id, body=body, timestamp=timestamp, user_id=taken.user_id
        ),
    }


def _send(url: str, body: bytes, headers: dict[str, str]) -> Answer:
    try:
        posted = client.post(
            url,
            body,
            headers,
            settings.WEBHOOK_TIMEOUT_SECONDS,
            https_only=settings.WEBHOOK_HTTPS_ONLY,
        )
    except client.OutboundError as exc:
        return Answer(None, {}, error=str(exc), final=isinstance(exc, client.Refused))
    text = posted.body[: STORED_BODY * 4].decode(errors="replace").replace("\x00", "\ufffd")[:STORED_BODY]
    return Answer(posted.status, posted.headers, text)


# -- outcome ---------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Verdict:
    state: Delivery.State
    error: str = ""
    delay: float = 0.0  # seconds until the next attempt


def judge(taken: Taken, answer: Answer) -> Verdict:
    """Mark it delivered or failed, or schedule the next attempt."""
    code = answer.status_code
    if code is not None and 200 <= code < 300:
        return Verdict(Delivery.State.DELIVERED)
    error = answer.error or _explained(code)
    if answer.final or code == GONE or _tried_enough(taken, code):
        return Verdict(Delivery.State.FAILED, error)
    asked = next((value for name, value in answer.headers.items() if name.lower() == "retry-after"), "")
    delay = deliverer.backoff(taken.tries, longest=LONGEST_DELAY)
    delay = max(delay, seconds_until(asked, now=timezone.now()))
    if deliverer.is_too_old(taken.age + delay):
        return Verdict(Delivery.State.FAILED, f"{error}; given up after {taken.tries} tries")
    return Verdict(Delivery.State.WAITING, error, delay)


def _explained(code: int | None) -> str:
    if code == GONE:
        return "The receiver responded with 410: it accepts no more deliveries"
    if code is not None and 300 <= code < 400:
        return f"The receiver responded with {code}; redirects are not followed"
    return f"The receiver responded with {code}"


def _tried_enough(taken: Taken, code: int | None) -> bool:
    if code is None:
        return False  # connection failed: it may work later
    if not client.is_worth_a_retry(code):
        return taken.tries >= TRIES_REFUSED
    return not WebhookEvent(taken.event).traits.has_result and taken.tries >= TRIES_BEFORE_END


def _record(taken: Taken, answer: Answer, *, seconds: float) -> None:
    verdict = judge(taken, answer)
    values: dict[str, Any] = {"state": verdict.state, "error": verdict.error}
    if verdict.state == Delivery.State.WAITING:
        values["due_at"] = Now() + timedelta(seconds=verdict.delay)
    else:
        values["finished_at"] = Now()
    with transaction.atomic():
        delivery = Delivery.objects.filter(id=taken.id, token=taken.token)
        if delivery.update(token=None, taken_until=None, **values):
            result = "retried" if verdict.state == Delivery.State.WAITING else verdict.state
            store.add("webhook_deliveries", result)
            DeliveryAttempt.objects.create(
                delivery_id=taken.id,
                status_code=answer.status_code,
                duration_ms=round(seconds * 1000),
                answer=answer.body,
                error=answer.error,
            )
    named = {"execution_id": str(taken.execution_id), "action": f"webhook_{verdict.state}"}
    if verdict.state == Delivery.State.FAILED:
        logger.warning("webhook %s given up: %s", taken.event, verdict.error, extra=named)
    elif verdict.state == Delivery.State.WAITING:
        logger.info("webhook %s not delivered, retrying later: %s", taken.event, verdict.error, extra=named)
    else:
        logger.info("webhook %s delivered in %.0f ms", taken.event, seconds * 1000, extra=named)
