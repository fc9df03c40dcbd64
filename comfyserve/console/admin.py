"""What a page of rows starts from when nobody may edit them by hand."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import get_permission_codename
from django.http import HttpRequest
from unfold.admin import ModelAdmin

from .paging import EstimatedPaginator


class ReadOnlyAdmin(ModelAdmin):  # type: ignore[misc]
    """Rows to look at. Actions, which go through the domain's own doors, say who may use them:

    `permissions=["operate"]` wants the model's change permission, `["remove"]` its delete permission.
    Django's own forms to add, change and delete are closed to everybody.
    """

    paginator = EstimatedPaginator
    show_full_result_count = False
    list_per_page = 50
    list_fullwidth = True

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        return False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        return self._may(request, "view") or self._may(request, "change")

    def has_operate_permission(self, request: HttpRequest) -> bool:
        return self._may(request, "change")

    def has_remove_permission(self, request: HttpRequest) -> bool:
        return self._may(request, "delete")

    def _may(self, request: HttpRequest, action: str) -> bool:
        codename = get_permission_codename(action, self.opts)
        return bool(request.user.has_perm(f"{self.opts.app_label}.{codename}"))
