"""Users for the operator: who they are, what they may, and what can be ended."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.admin import ModelAdmin, StackedInline
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from accounts import sessions
from accounts.models import ApiKey, Session, User, UserLimits

admin.site.unregister(Group)


class LimitsInline(StackedInline):  # type: ignore[misc]
    model = UserLimits
    verbose_name = "limits (empty: the default; 0: none)"


@admin.register(User)
class UserAdmin(DjangoUserAdmin, ModelAdmin):  # type: ignore[misc,type-arg]
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    inlines = [LimitsInline]
    list_display = ["email", "username", "is_active", "is_staff", "created_at", "last_login"]
    list_filter = ["is_active", "is_staff"]
    search_fields = ["email", "username"]
    ordering = ["-created_at"]
    readonly_fields = ["created_at", "updated_at", "last_login"]
    actions = ["end_sessions"]
    fieldsets = [
        (None, {"fields": ["email", "username", "password"]}),
        ("May do", {"fields": ["is_active", "is_staff", "is_superuser"]}),
        ("When", {"fields": ["created_at", "updated_at", "last_login"]}),
    ]
    add_fieldsets = [(None, {"fields": ["email", "username", "password1", "password2"]})]

    @admin.action(description="End all sessions of the chosen users")
    def end_sessions(self, request: HttpRequest, users: QuerySet[User]) -> None:
        ended = sum(sessions.end_all(user=user, reason=Session.End.EVERYWHERE) for user in users)
        self.message_user(request, f"{ended} sessions ended")


@admin.register(ApiKey)
class ApiKeyAdmin(ModelAdmin):  # type: ignore[misc]
    """To see and delete. Only its user can make one."""

    list_display = ["prefix", "name", "user", "created_at", "expires_at", "last_used_at"]
    search_fields = ["prefix", "name", "user__email"]
    list_select_related = ["user"]
    exclude = ["digest"]

    def has_add_permission(self, request: HttpRequest) -> bool:  # noqa: ARG002
        return False

    def has_change_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:  # noqa: ARG002
        return False
