from __future__ import annotations

import secrets

from django.conf import settings
from django.db import models


def new_file_id() -> str:
    """128 random bits: an id is not a permission, but must not be guessable either."""
    return f"file_{secrets.token_hex(16)}"


class Kind(models.TextChoices):
    UPLOAD = "upload"  # sent by a user
    OUTPUT = "output"  # made by an execution


class File(models.Model):
    """Bytes that a user may fetch, and where they lie in storage."""

    id = models.CharField(primary_key=True, max_length=40, default=new_file_id)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="files")
    kind = models.CharField(max_length=10, choices=Kind.choices)
    filename = models.CharField(max_length=255, help_text="Cleaned for display; never a path")
    description = models.CharField(max_length=1000, blank=True, default="")
    content_type = models.CharField(max_length=100, help_text="By content, not by the sender's word")
    size = models.BigIntegerField(help_text="Bytes")
    sha256 = models.CharField(max_length=64)
    key = models.CharField(max_length=255, help_text="Name in the storage")
    width = models.IntegerField(null=True, blank=True, help_text="Pixels; null where it has none")
    height = models.IntegerField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return self.filename
