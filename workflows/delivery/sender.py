"""Sends due deliveries: claims them, makes one try each, and interprets the response.

It works like the webhook dispatcher: a delivery is claimed for a limited time and claimed again if its sender
dies. Concurrency is limited per user, so that a slow bucket does not delay other users' deliveries.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now

from comfyserve import secret_box
from comfyserve.db import connections
from comfyserve.db.locks import AdvisoryLock
from comfyserve.outbound import client, errors
from files import backend, destinations
from files.errors import BytesMissing, StorageUnavailable
from workflows.models import OutputDelivery, WebhookEvent
from workflows.webhooks import deliverer, outbox

logger = logging.getLogger(__name__)

SENDERS, PER_USER = 8, 3  # concurrent files: in this process, and per user across processes
SEND_SECONDS = 600.0  # for one file
MAX_BYTES = 5 * 1024**3  # S3's limit for one request
LONGEST_DELAY = 3600.0  # seconds between tries
TRIES_REFUSED = 3  # 4xx responses


@dataclass(frozen=True)
class Taken:
    """A claimed delivery; `token` fences the writes of its outcome."""

    id: int
    token: UUID
    execution_id: UUID
    tries: int  # including this one
    age: float  # seconds since the execution ended or a redelivery was requested, by the database clock


@dataclass(frozen=True)
class Sent:
    """The outcome of a try. `error` is empty on success."""

    error: str = ""
    final: bool = False  # retrying cannot help
    refused: bool = False  # a 4xx response


_TAKE = """
WITH busy AS (
    SELECT user_id, count(*) AS number FROM workflows_outputdelivery
    WHERE state = 'waiting' AND taken_until > statement_timestamp() GROUP BY user_id
), due AS (
    SELECT d.id, d.due_at,
        row_number() OVER (PARTITION BY d.user_id ORDER BY d.due_at, d.id) + coalesce(b.number, 0) AS of_user
    FROM workflows_outputdelivery d LEFT JOIN busy b ON b.user_id = d.user_id
    WHERE d.state = 'waiting' AND d.due_at <= statement_timestamp()
        AND (d.taken_until IS NULL OR d.taken_until <= statement_timestamp())
), chosen AS (
    SELECT id FROM due WHERE of_user <= %(per_user)s ORDER BY of_user, due_at, id LIMIT %(limit)s
)
UPDATE workflows_outputdelivery d SET token = gen_random_uuid(), tries = tries + 1,
    taken_until = statement_timestamp() + make_interval(secs => %(seconds)s)
FROM chosen WHERE d.id = chosen.id
RETURNING d.id, d.token, d.execution_id, d.tries,
    extract(epoch FROM statement_timestamp() - d.retried_since)::float AS age
"""


def take(*, limit: int) -> list[Taken]:
    """Claim as many due deliveries as may be sent now, for slightly longer than one may take."""
    parameters = {"limit": limit, "per_user": PER_USER, "seconds": SEND_SECONDS + 60}
    return deliverer.claim(Taken, _TAKE, parameters, lock=AdvisoryLock.DELIVERIES)


def deliver(taken: Taken, *, stop: threading.Event | None = None) -> None:
    """Make one try and record its outcome."""
    row = connections.retry_until_available(lambda: _row(taken), stop=stop)
    if row is None:
        return  # deleted with its execution
    try:
        sent = _send(row, stop=stop)
    except Exception:  # counted as a try, or it would be repeated indefinitely
        logger.exception("a file of %s could not be sent", taken.execution_id)
        sent = Sent(deliverer.INTERNAL_ERROR)
    connections.retry_until_available(lambda: _record(taken, sent), stop=stop)


def _row(taken: Taken) -> OutputDelivery | None:
    related = OutputDelivery.objects.select_related("destination", "output__file", "output__converted")
    return related.filter(id=taken.id, token=taken.token).first()


class _UntilStopped:
    """A reader that aborts the request when this process shuts down; another process sends it again."""

    def __init__(self, reader: backend.Reader, stop: threading.Event | None) -> None:
        self._reader, self._stop = reader, stop

    def read(self, size: int, /) -> bytes:
        if self._stop is not None and self._stop.is_set():
            raise OSError("this process is shutting down")
        return self._reader.read(size)


def _send(row: OutputDelivery, *, stop: threading.Event | None) -> Sent:
    """No database access."""
    bytes_of = row.output.converted or row.output.file
    if bytes_of is None:
        return Sent("The file was deleted before it could be delivered", final=True)
    if bytes_of.size > MAX_BYTES:
        return Sent("Files of more than 5 GiB cannot be delivered", final=True)
    try:
        url = _url(row)
        reader = backend.read(bytes_of.key)
        try:
            answer = client.put(
                url, _UntilStopped(reader, stop), size=bytes_of.size,
                headers={"Content-Type": bytes_of.content_type}, timeout=SEND_SECONDS,
                https_only=settings.WEBHOOK_HTTPS_ONLY,
            )  # fmt: skip
        finally:
            reader.close()
    except (BytesMissing, secret_box.Unreadable, _Gone) as exc:
        return Sent(str(exc), final=True)
    except StorageUnavailable as exc:
        return Sent(str(exc))
    except errors.OutboundError as exc:
        return Sent(str(exc), final=isinstance(exc, errors.Refused))
    if 200 <= answer.status < 300:
        return Sent()
    refused = not client.is_worth_a_retry(answer.status)
    return Sent(f"Not delivered: {destinations.explained(answer)}", refused=refused)


class _Gone(Exception):
    pass


def _url(row: OutputDelivery) -> str:
    if row.secret_url:
        return secret_box.decrypt(row.secret_url)
    if row.destination is None:
        raise _Gone("The destination was deleted")
    return destinations.signed_url(row.destination, f"{row.execution_id}/{row.filename}")


def _record(taken: Taken, sent: Sent) -> None:
    """Record the outcome. The last delivery of an execution to finish notifies its webhook."""
    values = _values(taken, sent)
    with transaction.atomic():
        deliveries = OutputDelivery.objects.filter(execution=taken.execution_id)
        states = dict(deliveries.select_for_update().order_by("id").values_list("id", "state"))
        claimed = OutputDelivery.objects.filter(id=taken.id, token=taken.token)
        if not claimed.update(token=None, taken_until=None, **values):
            return
        states[taken.id] = values["state"]
        if OutputDelivery.State.WAITING not in states.values():
            outbox.record_again(taken.execution_id, event=WebhookEvent.DELIVERED)
    named = {"execution_id": str(taken.execution_id), "action": f"output_{values['state']}"}
    level = logging.WARNING if values["state"] == OutputDelivery.State.FAILED else logging.INFO
    logger.log(level, "delivery %d is %s: %s", taken.id, values["state"], sent.error or "sent", extra=named)


def _values(taken: Taken, sent: Sent) -> dict[str, Any]:
    states = OutputDelivery.State
    ended = {"finished_at": Now(), "secret_url": ""}
    if not sent.error:
        return {"state": states.DELIVERED, "error": "", **ended}
    delay = deliverer.backoff(taken.tries, longest=LONGEST_DELAY)
    is_rejected = sent.refused and taken.tries >= TRIES_REFUSED
    if sent.final or is_rejected or deliverer.is_too_old(taken.age + delay):
        return {"state": states.FAILED, "error": sent.error, **ended}
    return {"state": states.WAITING, "error": sent.error, "due_at": Now() + timedelta(seconds=delay)}
