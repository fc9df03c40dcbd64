"""The webhook outbox, and what users can do with it.

A delivery is a row written in the transaction that changes the status, so none is lost when the broker, a
worker or the receiver is unavailable. `dispatcher` sends it; a message to its queue only wakes it earlier.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Prefetch, QuerySet
from django.db.models.functions import Now

from comfyserve.api.errors import Conflict, NotFound, ValidationFailed
from comfyserve.outbound import client
from workflows import notify
from workflows.models import DEFAULT_EVENTS, Delivery, DeliveryAttempt, Execution, Webhook, WebhookEvent
from workflows.models.webhook import new_message_id

SHOWN_ATTEMPTS = 50  # the latest attempts per delivery


@dataclass(frozen=True)
class WebhookRequest:
    """The webhook a submitter asks for. `base` is our own URL as the submitter sees it."""

    url: str
    events: Sequence[str]
    base: str


# -- registration --------------------------------------------------------------------------------------
def check(wanted: WebhookRequest) -> None:
    """Raises ValidationFailed for URLs that are never called. May query DNS: not inside a transaction."""
    try:
        client.check(wanted.url, https_only=settings.WEBHOOK_HTTPS_ONLY)
    except client.Refused as exc:
        raise ValidationFailed.of("webhook_url", str(exc)) from exc


def register(execution: Execution, wanted: WebhookRequest) -> None:
    """Store it, in the transaction that creates the execution."""
    target = client.parse(wanted.url)
    Webhook.objects.create(
        execution=execution,
        url=wanted.url,
        host=f"{target.host}:{target.port}",
        events=list(wanted.events or DEFAULT_EVENTS),
        base=wanted.base,
    )


def request_of(execution: Execution) -> WebhookRequest | None:
    """The webhook of this execution; a retry inherits it."""
    hook = Webhook.objects.filter(execution=execution).first()
    return WebhookRequest(url=hook.url, events=hook.events, base=hook.base) if hook else None


# -- the outbox ----------------------------------------------------------------------------------------
def record(ids: Iterable[UUID], *, event: WebhookEvent) -> None:
    """Add the event of these executions to the outbox, where requested, once only.

    Call it in the transaction that changes the status.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO workflows_delivery (execution_id, user_id, event, message_id, url, host, state, error)
            SELECT w.execution_id, e.user_id, %(event)s, 'msg_' || replace(gen_random_uuid()::text, '-', ''),
                w.url, w.host, 'waiting', ''
            FROM workflows_webhook w JOIN workflows_execution e ON e.id = w.execution_id
            WHERE w.execution_id = ANY(%(ids)s) AND %(event)s = ANY(w.events)
            ON CONFLICT DO NOTHING
            """,
            {"event": event, "ids": list(ids)},
        )
        if cursor.rowcount:
            transaction.on_commit(notify.wake_webhooks)


def record_again(execution_id: UUID, *, event: WebhookEvent) -> None:
    """Add a repeatable event that may have been reported before: as a new message, in the same row.

    One that is still waiting is left alone: its body is built when it is sent. Call it in the transaction
    that changes the state. ValueError if the event happens only once.
    """
    if not event.traits.repeatable:
        raise ValueError(f"{event} happens only once per execution")
    ended = Delivery.objects.filter(execution=execution_id, event=event)
    if not send_again(ended, message_id=new_message_id(), created_at=Now()):
        record([execution_id], event=event)


# -- list and redelivery -------------------------------------------------------------------------------
def deliveries_of(execution: Execution) -> list[Delivery]:
    """In order of events, each with its attempts."""
    tries = Prefetch("attempts", DeliveryAttempt.objects.order_by("id"))
    return list(Delivery.objects.filter(execution=execution).order_by("id").prefetch_related(tries))


def redeliver(*, execution: Execution, delivery_id: int) -> Delivery:
    """Send it again, with the same id. Raises Conflict while it is being sent."""
    rows = Delivery.objects.filter(execution=execution, id=delivery_id)
    if not rows.exists():
        raise NotFound(f"This execution has no delivery {delivery_id}")
    if not send_again(rows):
        raise Conflict("This delivery is still waiting to be sent")
    return rows.get()


def send_again(rows: QuerySet[Delivery], **changes: Any) -> int:
    """Queue finished deliveries again, whether delivered or failed; returns their number."""
    with transaction.atomic():
        changed = rows.exclude(state=Delivery.State.WAITING).update(
            state=Delivery.State.WAITING,
            due_at=Now(),
            retried_since=Now(),
            tries=0,
            error="",
            finished_at=None,
            token=None,
            taken_until=None,
            **changes,
        )
        if changed:
            transaction.on_commit(notify.wake_webhooks)
    return changed


def shown(delivery: Delivery) -> dict[str, Any]:
    """A delivery as the API shows it, with its latest attempts."""
    return {
        "id": delivery.id,
        "webhook_id": delivery.message_id,
        "event": delivery.event,
        "url": delivery.url,
        "state": delivery.state,
        "error": delivery.error or None,
        "created_at": delivery.created_at,
        "finished_at": delivery.finished_at,
        "next_attempt_at": delivery.due_at if delivery.state == Delivery.State.WAITING else None,
        "attempts": [
            {
                "timestamp": attempt.at,
                "status_code": attempt.status_code,
                "duration_ms": attempt.duration_ms,
                "answer": attempt.answer,
                "error": attempt.error or None,
            }
            for attempt in list(delivery.attempts.all())[-SHOWN_ATTEMPTS:]
        ],
    }
