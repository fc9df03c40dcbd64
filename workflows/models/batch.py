"""Tables of batches: many executions submitted at once, tracked and cancelled as one."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from comfyserve.ids import uuid7


class Batch(models.Model):
    """Executions submitted together. `remaining` is decremented in the transaction that ends each one."""

    id = models.UUIDField(primary_key=True, default=uuid7)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="batches", db_index=False
    )
    total = models.IntegerField()
    remaining = models.IntegerField(help_text="Executions that have not ended")
    created_at = models.DateTimeField(db_default=Now())
    completed_at = models.DateTimeField(null=True, blank=True, help_text="When the last one ended")
    app = models.CharField(max_length=300, blank=True, default="", help_text="owner/name; empty: a workflow")
    metadata = models.JSONField(default=dict)
    webhook_url = models.TextField(blank=True, default="")
    webhook_host = models.CharField(max_length=300, blank=True, default="")
    webhook_base = models.CharField(max_length=500, blank=True, default="")

    class Meta:
        indexes = [
            # Used by the list of a user's batches.
            models.Index(fields=["user", "-created_at", "id"], name="batch_of_user"),
            # Used by retention.
            models.Index(
                fields=["completed_at"], name="batch_ended", condition=Q(completed_at__isnull=False)
            ),
        ]
        verbose_name_plural = "batches"

    def __str__(self) -> str:
        return str(self.id)
