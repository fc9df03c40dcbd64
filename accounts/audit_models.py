"""The audit log's table; `audit` writes it."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now


class AuditEntry(models.Model):
    """One action of a user. Append-only: the database rejects updates, retention deletes.

    It records users and objects by value, not by foreign key, so that it outlives them.
    """

    class Via(models.TextChoices):
        ADMIN = "admin"
        API = "api"
        SYSTEM = "system"  # a task or a command: no request

    at = models.DateTimeField(db_default=Now())
    actor = models.BigIntegerField(null=True, blank=True, help_text="The user's id; null if unknown")
    who = models.CharField(
        max_length=254, blank=True, default="", help_text="The user's e-mail address at the time"
    )
    via = models.CharField(max_length=10, choices=Via.choices, default=Via.SYSTEM)
    address = models.GenericIPAddressField(null=True, blank=True)
    request_id = models.CharField(max_length=128, blank=True, default="")
    action = models.CharField(max_length=60, help_text="Such as login or worker.pause")
    object_type = models.CharField(max_length=60, blank=True, default="")
    object_id = models.CharField(max_length=200, blank=True, default="")
    object_name = models.CharField(max_length=200, blank=True, default="")
    changes = models.JSONField(default=dict, help_text="Field -> [old, new]; secrets are masked")
    note = models.CharField(max_length=500, blank=True, default="")

    class Meta:
        verbose_name_plural = "audit entries"
        default_permissions = ("view",)  # the admin never offers the others
        indexes = [
            # Read by retention, and by the list's filter by date.
            models.Index(fields=["at"], name="audit_at"),
            # Read by the detail page of an object: its history.
            models.Index(fields=["object_type", "object_id"], name="audit_object"),
        ]

    def __str__(self) -> str:
        return f"{self.action} by {self.who or 'unknown'}"
