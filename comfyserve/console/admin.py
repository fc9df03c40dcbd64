"""What pages of rows start from: those to look at, and those that are edited by forms."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.contrib.auth import get_permission_codename
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from unfold.admin import ModelAdmin

from accounts import audit

from .paging import EstimatedPaginator


class Operable(ModelAdmin):  # type: ignore[misc]
    """Actions go through the domain's own doors, and say who may use them:

    `permissions=["operate"]` wants the model's change permission, `["remove"]` its delete permission.
    """

    paginator = EstimatedPaginator
    show_full_result_count = False
    list_per_page = 50
    list_fullwidth = True

    def has_operate_permission(self, request: HttpRequest) -> bool:
        return self._may(request, "change")

    def has_remove_permission(self, request: HttpRequest) -> bool:
        return self._may(request, "delete")

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """Django would pass over an action that is not permitted; we refuse it."""
        wanted = request.POST.get("action")
        known = {name for _, name, _ in self._get_base_actions()}
        if wanted in known and wanted not in self.get_actions(request):
            raise PermissionDenied
        return super().changelist_view(request, extra_context)  # type: ignore[no-any-return]

    def _may(self, request: HttpRequest, action: str) -> bool:
        codename = get_permission_codename(action, self.opts)
        return bool(request.user.has_perm(f"{self.opts.app_label}.{codename}"))


class ReadOnlyAdmin(Operable):
    """Rows to look at. Django's own forms to add, change and delete are closed to everybody."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        return False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        return self._may(request, "view") or self._may(request, "change")


class EditedAdmin(Operable):
    """Rows that are edited by forms. What was changed, from what to what, is in the audit log."""

    def construct_change_message(
        self, request: HttpRequest, form: Any, formsets: Any, add: bool = False
    ) -> Any:
        """Django calls it when everything is saved, and then one of `log_addition` and `log_change`."""
        changes = {self.opts.model_name: _changes(form)}
        for formset in formsets or []:
            for each in formset.forms:
                if each.has_changed():
                    changes[str(formset.model._meta.model_name)] = _changes(each)
        request._changes = changes  # type: ignore[attr-defined]
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
        """One row for each model of which something changed; all of them name the object of the page."""
        changed: dict[str, Any] = getattr(request, "_changes", {})
        for model_name, changes in changed.items():
            if changes or act == "add":
                audit.record(f"{model_name}.{act}", on=obj, changes=changes)


def _changes(form: Any) -> dict[str, tuple[Any, Any]]:
    """Of a form that was saved. A new password leaves a row of its own, whoever sets it: not here."""
    return {
        name: (_said(form.initial.get(name)), _said(form.cleaned_data.get(name)))
        for name in form.changed_data
        if "password" not in name
    }


def _said(value: Any) -> Any:
    return [str(each) for each in value] if isinstance(value, list | tuple | QuerySet) else value
