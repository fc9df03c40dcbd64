"""Users in the console: profile, limits and usage, and actions to end sessions, accounts and keys."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from unfold.admin import StackedInline
from unfold.forms import AdminPasswordChangeForm

from accounts import api_keys, sessions, usage
from accounts.audited_console import EditedAdmin, apply_to_each
from accounts.console_forms import AddUserForm, EditUserForm
from accounts.models import ApiKey, Session, User, UserLimits
from comfyserve.api.errors import Conflict
from comfyserve.console import html
from comfyserve.console.confirm_actions import Answer, ask_first
from comfyserve.console.pages import Facts, Offer, PageAdmin, Section

from . import audit_admin  # noqa: F401

admin.site.unregister(Group)
Rows = QuerySet[User]


class LimitsInline(StackedInline):  # type: ignore[misc]
    model = UserLimits
    verbose_name = "limits (empty: the default; 0: none)"


@admin.register(User)
class UserAdmin(DjangoUserAdmin, EditedAdmin):  # type: ignore[type-arg,misc]
    """Only superusers may change who is staff, and edit staff accounts."""

    form = EditUserForm
    add_form = AddUserForm
    change_password_form = AdminPasswordChangeForm
    change_form_after_template = "accounts/user_about.html"
    inlines = [LimitsInline]
    list_display = ["email", "username", "standing", "waiting", "running", "created_at", "last_login"]
    list_filter = ["is_active", "is_staff"]
    search_fields = ["email", "username"]
    ordering = ["-created_at"]
    readonly_fields = ["created_at", "updated_at", "last_login"]
    actions = ["end_sessions", "deactivate", "activate"]
    fieldsets = [
        (None, {"fields": ["email", "username", "password"]}),
        ("May do", {"fields": ["is_active", "is_staff", "is_superuser", "groups"]}),
        ("When", {"fields": ["created_at", "updated_at", "last_login"]}),
    ]
    add_fieldsets = [(None, {"fields": ["email", "username", "password1", "password2"]})]
    filter_horizontal = ()

    def get_queryset(self, request: HttpRequest) -> Rows:
        return usage.with_alive(super().get_queryset(request)).select_related("limits")

    @admin.display(description="Standing")
    def standing(self, row: User) -> Any:
        if not row.is_active:
            return html.badge("deactivated", "bad")
        return html.badge("staff", "busy") if row.is_staff else html.badge("active")

    @admin.display(description="Waiting")
    def waiting(self, row: Any) -> str:
        return html.number(row.waiting)

    @admin.display(description="Running")
    def running(self, row: Any) -> str:
        return html.number(row.running)

    # -- permissions --------------------------------------------------------------------------------------
    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_change_permission(request, obj) and (obj is None or _may_touch(request, obj))

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_delete_permission(request, obj) and (obj is None or _may_touch(request, obj))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        own = list(super().get_readonly_fields(request, obj))
        return own if _is_superuser(request) else [*own, "is_staff", "is_superuser", "groups"]

    # -- detail page --------------------------------------------------------------------------------------
    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> User | None:
        """Cached: called several times per request, by Django's own page and by the methods below."""
        shown: dict[str, User | None] = request.__dict__.setdefault("_shown", {})
        if object_id not in shown:
            shown[object_id] = super().get_object(request, object_id, from_field)
        return shown[object_id]

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        user = self.get_object(request, unquote(object_id))
        more = {"sections": usage.sections(user)} if user is not None and request.method == "GET" else {}
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), **more})

    # -- actions ------------------------------------------------------------------------------------------
    @ask_first(
        title="End all sessions",
        text="They have to log in again. API keys keep working.",
        button="Yes, end them",
        danger=True,
    )
    def end_sessions(self, request: HttpRequest, rows: Rows, answer: Answer) -> None:  # noqa: ARG002
        def end(row: User) -> None:
            _check(request, row)
            if not sessions.end_all(user=row, reason=Session.End.EVERYWHERE):
                raise Conflict("no open session")

        apply_to_each(self, request, rows, end, done="logged out everywhere", recorded=True)

    @ask_first(
        title="Deactivate",
        text="They can no longer log in, their sessions end and their API keys stop working. Executions that "
        "they have submitted continue, and their data is kept.",
        button="Yes, deactivate",
        danger=True,
    )
    def deactivate(self, request: HttpRequest, rows: Rows, answer: Answer) -> None:  # noqa: ARG002
        self._set_active(request, rows, False, "deactivated")

    @ask_first(title="Activate", text="They can log in again.", button="Yes, activate")
    def activate(self, request: HttpRequest, rows: Rows, answer: Answer) -> None:  # noqa: ARG002
        self._set_active(request, rows, True, "activated")

    def _set_active(self, request: HttpRequest, rows: Rows, active: bool, done: str) -> None:
        def change(row: User) -> None:
            _check(request, row)
            if row.pk == request.user.pk:
                raise Conflict("this is your own account")
            row.is_active = active
            row.save(update_fields=["is_active"])

        apply_to_each(self, request, rows, change, done=done)


def _is_superuser(request: HttpRequest) -> bool:
    return bool(getattr(request.user, "is_superuser", False))


def _may_touch(request: HttpRequest, row: User) -> bool:
    return _is_superuser(request) or row.pk == request.user.pk or not (row.is_staff or row.is_superuser)


def _check(request: HttpRequest, row: User) -> None:
    if not _may_touch(request, row):
        raise Conflict("only superusers may do this to staff")


@admin.register(ApiKey)
class ApiKeyAdmin(PageAdmin):
    """Read-only, with revocation. Only its user can create a key."""

    list_display = ["prefix", "name", "user", "scope", "created_at", "expires_at", "last_used_at"]
    search_fields = ["prefix", "name", "user__email"]
    list_select_related = ["user"]
    ordering = ["-id"]
    actions = ["revoke"]

    def offers(self, row: ApiKey) -> list[Offer]:  # noqa: ARG002
        return [("revoke", "Revoke", True)]

    def sections(self, request: HttpRequest, row: ApiKey) -> Iterable[Section]:  # noqa: ARG002
        yield Facts(
            "API key",
            [
                ("Begins with", row.prefix),
                ("Name", row.name),
                (
                    "May do",
                    row.get_scope_display(),
                ),
                ("User", row.user),
                ("Made", html.ago(row.created_at)),
                ("Expires", f"{row.expires_at:%Y-%m-%d %H:%M} UTC" if row.expires_at else "never"),
                ("Last used", html.ago(row.last_used_at)),
            ],
        )

    @ask_first(
        title="Revoke",
        text="They stop working immediately and cannot be restored.",
        button="Yes, revoke",
        danger=True,
        permission="remove",
    )
    def revoke(self, request: HttpRequest, rows: QuerySet[ApiKey], answer: Answer) -> None:  # noqa: ARG002
        def revoke(row: ApiKey) -> None:
            _check(request, row.user)
            api_keys.delete(user=row.user, key_id=row.pk)

        apply_to_each(self, request, rows.select_related("user"), revoke, done="revoked", recorded=True)
