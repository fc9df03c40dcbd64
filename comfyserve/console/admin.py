"""Base ModelAdmin classes of the console. `accounts.audited_console` has the one for editable rows."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import get_permission_codename
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from unfold.admin import ModelAdmin

from .paging import EstimatedPaginator


class Operable(ModelAdmin):  # type: ignore[misc]
    """Actions call the domain's own functions and declare the permission they need:

    `permissions=["operate"]` requires the model's change permission, `["remove"]` its delete permission.
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
        """Django silently ignores an action that is not permitted; we reject it."""
        wanted = request.POST.get("action")
        known = {name for _, name, _ in self._get_base_actions()}
        if wanted in known and wanted not in self.get_actions(request):
            raise PermissionDenied
        return super().changelist_view(request, extra_context)  # type: ignore[no-any-return]

    def _may(self, request: HttpRequest, action: str) -> bool:
        codename = get_permission_codename(action, self.opts)
        return bool(request.user.has_perm(f"{self.opts.app_label}.{codename}"))


class ReadOnlyAdmin(Operable):
    """Read-only rows. Django's own add, change and delete forms are disabled for everyone."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        return False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        return self._may(request, "view") or self._may(request, "change")
