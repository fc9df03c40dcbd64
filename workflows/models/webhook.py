"""Tables of webhooks: what users subscribed to, the outbox, and the result of each delivery."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from .execution import TERMINAL, Status


class WebhookEvent(models.TextChoices):
    """The events a webhook reports. A new event needs a member here and its `EventTraits` below."""

    STARTED = "workflow.started"
    COMPLETED = "workflow.completed"
    FAILED = "workflow.failed"
    CANCELLED = "workflow.cancelled"
    DELIVERED = "workflow.delivered"
    BATCH_COMPLETED = "batch.completed"

    @property
    def traits(self) -> EventTraits:
        return EVENT_TRAITS[self]

    @classmethod
    def at_end(cls, status: Status) -> WebhookEvent:
        """The event for an execution that ended with this status."""
        return next(e for e in cls if e.traits.is_terminal and e.traits.status == status)


@dataclass(frozen=True)
class EventTraits:
    status: Status  # the status reported in the body, however late it is sent
    is_terminal: bool  # it is the end of the execution, which is counted and closes its streams
    repeatable: bool = False  # may happen more than once per execution: see `outbox.record_again`
    sent_by_default: bool = True  # to webhooks that listed no events

    @property
    def has_result(self) -> bool:
        """Whether the body has the final result; else it describes the moment of the event."""
        return self.status in TERMINAL


EVENT_TRAITS = {
    WebhookEvent.STARTED: EventTraits(Status.RUNNING, is_terminal=False),
    WebhookEvent.COMPLETED: EventTraits(Status.COMPLETED, is_terminal=True),
    WebhookEvent.FAILED: EventTraits(Status.FAILED, is_terminal=True),
    WebhookEvent.CANCELLED: EventTraits(Status.CANCELLED, is_terminal=True),
    # Its files were delivered as `deliver_to` requested, or given up; the end was reported before.
    WebhookEvent.DELIVERED: EventTraits(
        Status.COMPLETED, is_terminal=False, repeatable=True, sent_by_default=False
    ),
    # Sent once to a batch's own webhook; attached to the last execution that ended.
    WebhookEvent.BATCH_COMPLETED: EventTraits(Status.COMPLETED, is_terminal=False, sent_by_default=False),
}
DEFAULT_EVENTS = [event for event, traits in EVENT_TRAITS.items() if traits.sent_by_default]
EXECUTION_EVENTS = [event for event in WebhookEvent if event != WebhookEvent.BATCH_COMPLETED]


class Webhook(models.Model):
    """The webhook registered for one execution, and its events."""

    execution = models.OneToOneField(
        "workflows.Execution", primary_key=True, on_delete=models.CASCADE, related_name="webhook"
    )
    url = models.TextField()
    host = models.CharField(
        max_length=300, help_text="Host and port, for the limit of concurrent deliveries per host"
    )
    events = ArrayField(models.CharField(max_length=20, choices=WebhookEvent.choices))
    base = models.CharField(max_length=500, help_text="Our base URL as the submitter used it, for links")

    def __str__(self) -> str:
        return self.url


def new_message_id() -> str:
    return f"msg_{uuid.uuid4().hex}"


class Delivery(models.Model):
    """One event for a receiver. Created with the status change; done when the receiver confirms."""

    class State(models.TextChoices):
        WAITING = "waiting"  # due now or at `due_at`
        DELIVERED = "delivered"  # the receiver responded with 2xx
        FAILED = "failed"  # given up; `error` explains why

    execution = models.ForeignKey(
        "workflows.Execution", on_delete=models.CASCADE, related_name="deliveries", db_index=False
    )
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+", db_index=False
    )
    event = models.CharField(max_length=20, choices=WebhookEvent.choices)
    message_id = models.CharField(
        max_length=40, default=new_message_id, help_text="The header webhook-id, the same on each try"
    )
    url = models.TextField()
    host = models.CharField(max_length=300)
    state = models.CharField(max_length=10, choices=State.choices, default=State.WAITING)
    error = models.TextField(blank=True, default="", help_text="Of the last try")
    created_at = models.DateTimeField(db_default=Now(), help_text="When it happened: the body's timestamp")
    finished_at = models.DateTimeField(null=True, blank=True)
    due_at = models.DateTimeField(db_default=Now())
    retried_since = models.DateTimeField(db_default=Now(), help_text="Start of the retry period")
    tries = models.IntegerField(default=0, db_default=0)
    # the sender's claim, and until when it is valid
    token = models.UUIDField(null=True, blank=True)
    taken_until = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name_plural = "deliveries"
        constraints = [
            # An execution that is requeued and runs again reports its start only once; a repeated event
            # uses the same row.
            models.UniqueConstraint(fields=["execution", "event"], name="delivery_once"),
        ]
        indexes = [
            # Used by dispatcher.take: waiting or in progress, few compared to the delivered ones.
            models.Index(fields=["due_at"], name="delivery_waiting", condition=Q(state="waiting")),
            # Used by the console: failed ones, and those of a user, to a host or with an id.
            models.Index(fields=["-id"], name="delivery_failed", condition=Q(state="failed")),
            models.Index(fields=["user", "-id"], name="delivery_of_user"),
            models.Index(fields=["host", "-id"], name="delivery_to_host"),
            models.Index(fields=["message_id"], name="delivery_of_message"),
        ]

    def __str__(self) -> str:
        return f"{self.event} of {self.execution_id}"


class DeliveryAttempt(models.Model):
    """One delivery attempt and the receiver's response."""

    delivery = models.ForeignKey(Delivery, on_delete=models.CASCADE, related_name="attempts")
    at = models.DateTimeField(db_default=Now())
    status_code = models.IntegerField(null=True, blank=True, help_text="Null: no response")
    duration_ms = models.IntegerField()
    answer = models.TextField(blank=True, default="", help_text="The first kilobyte")
    error = models.TextField(blank=True, default="")

    def __str__(self) -> str:
        return f"{self.status_code or self.error} at {self.at}"


class WebhookSecret(models.Model):
    """The signing secret of a user's webhooks. For a while after a rotation, the old one signs too."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="webhook_secrets"
    )
    secret = models.CharField(max_length=100, help_text="whsec_ and 32 random bytes in base64")
    created_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField(null=True, blank=True, help_text="Null: the current one")

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["user"], condition=Q(expires_at=None), name="webhook_secret_present"
            ),
        ]

    def __str__(self) -> str:
        return f"secret of user {self.user_id} since {self.created_at}"
