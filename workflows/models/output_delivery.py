"""Delivery of outputs to the user's destination: a bucket, or a URL for this one file."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now


class OutputDelivery(models.Model):
    """One file to be delivered. Created with the end of its execution; done when the destination has it."""

    class State(models.TextChoices):
        WAITING = "waiting"  # due now or at `due_at`
        DELIVERED = "delivered"
        FAILED = "failed"  # given up; `error` explains why

    output = models.OneToOneField("workflows.Output", on_delete=models.CASCADE, related_name="delivery")
    execution = models.ForeignKey(
        "workflows.Execution", on_delete=models.CASCADE, related_name="output_deliveries"
    )
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+", db_index=False
    )
    filename = models.CharField(max_length=800, help_text="Unique among those of the execution")
    destination = models.ForeignKey(
        "files.Destination", null=True, on_delete=models.SET_NULL, related_name="+"
    )
    secret_url = models.TextField(
        blank=True, default="", help_text="The URL given for it, encrypted; empty once it has ended"
    )
    url = models.TextField(blank=True, default="", help_text="Without secrets")
    state = models.CharField(max_length=10, choices=State.choices, default=State.WAITING)
    error = models.TextField(blank=True, default="", help_text="Of the last try")
    created_at = models.DateTimeField(db_default=Now())
    finished_at = models.DateTimeField(null=True, blank=True)
    due_at = models.DateTimeField(db_default=Now())
    retried_since = models.DateTimeField(db_default=Now(), help_text="Tries are counted from here on")
    tries = models.IntegerField(default=0)
    # the sender's claim, and until when it is valid
    token = models.UUIDField(null=True, blank=True)
    taken_until = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name_plural = "output deliveries"
        indexes = [
            # Used by delivery.sender: waiting or in progress, few compared to the delivered ones.
            models.Index(fields=["due_at"], name="output_delivery_waiting", condition=Q(state="waiting")),
            # Used by the console: those of a user.
            models.Index(fields=["user", "-id"], name="output_delivery_of_user"),
            # Used by the console: failed deliveries of a destination.
            models.Index(
                fields=["destination", "id"], name="output_delivery_failed", condition=Q(state="failed")
            ),
        ]

    def __str__(self) -> str:
        return f"{self.filename} of {self.execution_id}"
