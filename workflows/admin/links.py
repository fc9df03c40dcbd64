"""Links between pages of the console."""

from __future__ import annotations

from typing import Any

from django.db.models import Model
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString


def to_page(row: Model, text: str | None = None) -> SafeString:
    """A link to the row's page, by its name unless `text` is given."""
    address = reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_change", args=[row.pk])
    return format_html('<a href="{}">{}</a>', address, text or str(row))


def to_execution(pk: Any) -> SafeString:
    """A link to the page of the execution with this id, named by its short id."""
    address = reverse("admin:workflows_execution_change", args=[pk])
    return format_html('<a class="cs-mono" href="{}">{}</a>', address, short(pk))


def short(execution_id: Any) -> str:
    """The last digits, which are random: the first ones are the time, and equal for about a minute."""
    return f"…{str(execution_id)[-8:]}"
