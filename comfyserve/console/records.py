"""Who did what in the console: rows of Django's own log, which say it in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.db.models import Model
from django.http import HttpRequest


def note(request: HttpRequest, objects: Sequence[Model], what: str, *, deleted: bool = False) -> None:
    """One row for each object. For deleted ones call it before they go, in the transaction that deletes."""
    user: Any = request.user
    LogEntry.objects.log_actions(user.pk, objects, DELETION if deleted else CHANGE, change_message=what)
