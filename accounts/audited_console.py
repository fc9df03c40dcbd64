"""Console pages and actions that write to the audit log."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from django.contrib import messages
from django.db import transaction
from django.db.models import Model, QuerySet
from django.http import HttpRequest

from accounts import audit
from comfyserve.api.errors import ApiError
from comfyserve.console.admin import Operable

REASONS = 5  # failures per action that are shown


class EditedAdmin(Operable):
    """Rows that are edited by forms. Each change is recorded in the audit log with old and new values."""

    def construct_change_message(
        self, request: HttpRequest, form: Any, formsets: Any, add: bool = False
    ) -> Any:
        """Django calls it when everything is saved, followed by `log_addition` or `log_change`."""
        changes = {self.opts.model_name: _changes(form)}
        for formset in formsets or []:
            for each in formset.forms:
                if each.has_changed():
                    changes[str(formset.model._meta.model_name)] = _changes(each)
        request.form_changes = changes  # type: ignore[attr-defined]
        return super().construct_change_message(request, form, formsets, add)

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        self._record(request, obj, "add")
        return super().log_addition(request, obj, message)

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        self._record(request, obj, "change")
        return super().log_change(request, obj, message)

    def log_deletions(self, request: HttpRequest, queryset: Iterable[Any]) -> Any:
        audit.record_each(f"{self.opts.model_name}.delete", on=queryset)
        return super().log_deletions(request, queryset)

    def _record(self, request: HttpRequest, obj: Model, act: str) -> None:
        """One row for each model with changes; all of them refer to the object of the page."""
        changed: dict[str, Any] = getattr(request, "form_changes", {})
        for model_name, changes in changed.items():
            if changes or act == "add":
                audit.record(f"{model_name}.{act}", on=obj, changes=changes)


def _changes(form: Any) -> dict[str, tuple[Any, Any]]:
    """The changes of a saved form. A new password is recorded elsewhere, however it is set."""
    return {
        name: (_as_json(form.initial.get(name)), _as_json(form.cleaned_data.get(name)))
        for name in form.changed_data
        if "password" not in name
    }


def _as_json(value: Any) -> Any:
    return [str(each) for each in value] if isinstance(value, list | tuple | QuerySet) else value


def apply_to_each(
    owner: Any,
    request: HttpRequest,
    rows: Iterable[Any],
    do: Callable[[Any], object],
    *,
    done: str,
    recorded: bool = False,
) -> None:
    """Apply `do` to each, record the successes, report both to the operator. `done`: "cancelled".

    The audit row is written in the same transaction as the change. `recorded`: `do` writes it, and has a
    transaction of its own.
    """
    action = f"{owner.opts.model_name}.{request.POST['action']}"
    succeeded, reasons = 0, []
    for row in rows:
        pk = row.pk
        try:
            if recorded:
                do(row)
            else:
                with transaction.atomic():
                    do(row)
                    row.pk = pk  # unset on a deleted object
                    audit.record(action, on=row, note=done)
        except ApiError as exc:
            reasons.append(f"{row}: {exc.message}")
            continue
        succeeded += 1
    if succeeded:
        owner.message_user(request, f"{succeeded} {done}", messages.SUCCESS)
    for reason in reasons[:REASONS]:
        owner.message_user(request, f"Not {done}: {reason}", messages.WARNING)
    if len(reasons) > REASONS:
        owner.message_user(request, f"Not {done}: {len(reasons) - REASONS} more", messages.WARNING)
