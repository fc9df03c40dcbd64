"""Users and what belongs to them: sessions, API keys, limits, usage."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

from django.contrib.auth.models import AbstractUser, UserManager
from django.contrib.postgres.fields import ArrayField
from django.db import models, transaction
from django.db.models import Q
from django.db.models.functions import Lower
from django.utils import timezone

from comfyserve.api import rates


class Users(UserManager["User"]):
    def get_by_natural_key(self, username: str | None) -> User:
        """The user with this e-mail address, ignoring case. Django's own login uses it too."""
        return self.alias(lowered=Lower("email")).get(lowered=Lower(models.Value(username or "")))


class User(AbstractUser):
    """An API user. Logs in with the e-mail address."""

    email = models.EmailField(unique=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(null=True, blank=True, help_text="Null until the first change")
    history_cleared_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="ComfyUI's routes hide history before this time"
    )

    USERNAME_FIELD = "email"
    REQUIRED_FIELDS = ["username"]
    objects = Users()  # type: ignore[misc]

    class Meta:
        constraints = [
            models.UniqueConstraint(Lower("email"), name="user_email_any_case"),
        ]

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Also sets `updated_at`."""
        if not self._state.adding:
            self.updated_at = timezone.now()
            if kwargs.get("update_fields") is not None:
                kwargs["update_fields"] = {*kwargs["update_fields"], "updated_at"}
        with transaction.atomic():  # together with the `post_save` receiver in `accounts.signals`
            super().save(*args, **kwargs)

    @property
    def password_stamp(self) -> str:
        """Changes with every password change; sessions store it and become invalid."""
        return hashlib.sha256(self.password.encode()).hexdigest()[:32]


class Session(models.Model):
    """One login: a chain of refresh tokens and their access tokens. Never only in Redis."""

    class End(models.TextChoices):
        LOGOUT = "logout"
        EVERYWHERE = "everywhere"  # a logout from all sessions
        THEFT = "theft"  # a refresh token was used again
        PASSWORD = "password"  # noqa: S105  (the password was changed)
        DEACTIVATED = "deactivated"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="sessions", db_index=False)
    password_stamp = models.CharField(max_length=32)
    # The refresh token of this generation is valid; earlier ones have been used.
    generation = models.PositiveIntegerField(default=0)
    # When the last generations were issued, oldest first, the current one last. Tokens are made from
    # these alone, so that the same refresh gives the same answer within the grace.
    issued = ArrayField(models.DateTimeField())
    address = models.GenericIPAddressField(null=True, help_text="Client address of the login")
    user_agent = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)
    end_reason = models.CharField(max_length=12, choices=End, blank=True)

    class Meta:
        indexes = [
            # Read by sessions.end_all(): the active ones of one user.
            models.Index(fields=["user"], name="session_live", condition=Q(ended_at=None)),
            # Read by throttling: has this account been logged in to from this address?
            models.Index(fields=["user", "address"], name="session_address"),
            # Read by cleaning.
            models.Index(fields=["expires_at"], name="session_expires"),
        ]

    def __str__(self) -> str:
        return f"session {self.id} of user {self.user_id}"


class Scope(models.TextChoices):
    """What an API key may do."""

    ALL = "all", "everything"
    COMFYUI = "comfyui", "ComfyUI's routes only"  # may be given in the path: /c/<key>/


class ApiKey(models.Model):
    """A secret for a server, shown once and stored as a hash."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="api_keys")
    name = models.CharField(max_length=100)
    prefix = models.CharField(max_length=16, help_text="The first characters of the key, to recognise it by")
    # SHA-256: the key has 256 random bits, so a slow hash would add nothing.
    digest = models.CharField(max_length=64, unique=True)
    scope = models.CharField(max_length=20, choices=Scope.choices, default=Scope.ALL, db_default=Scope.ALL)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True, help_text="To the minute")

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"


class UserLimits(models.Model):
    """The operator's overrides for one user. Null or empty: the settings' default."""

    user = models.OneToOneField(User, on_delete=models.CASCADE, primary_key=True, related_name="limits")
    rate_limits = models.CharField(
        max_length=100,
        blank=True,
        validators=[rates.validate],
        help_text="Requests in each window, such as 600/m,10000/h,100000/d; or off; empty: the default",
    )
    executions_waiting = models.PositiveIntegerField(null=True, blank=True)
    executions_per_day = models.PositiveIntegerField(null=True, blank=True)
    executions_running = models.PositiveIntegerField(null=True, blank=True)
    storage_bytes = models.PositiveBigIntegerField(null=True, blank=True)
    highest_priority = models.CharField(
        max_length=6, blank=True, choices=[("low", "low"), ("normal", "normal"), ("high", "high")]
    )

    class Meta:
        verbose_name_plural = "user limits"

    def __str__(self) -> str:
        return f"limits of user {self.user_id}"


class DailyUse(models.Model):
    """How many executions a user submitted on a day (UTC). Counted here, so that deletions do not restore
    quota."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="+", db_index=False)
    day = models.DateField()
    executions = models.PositiveIntegerField(default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user", "day"], name="daily_use_once")]

    def __str__(self) -> str:
        return f"user {self.user_id} on {self.day}: {self.executions}"


class CountedStorage(models.Model):
    """What a user had in storage before a moment, so that only what came later has to be added up.

    An upper bound: what was deleted since the last full count is still in it. See `storage_use`.
    """

    user = models.OneToOneField(User, primary_key=True, on_delete=models.CASCADE, related_name="+")
    moment = models.DateTimeField()
    size = models.BigIntegerField(help_text="Bytes of files and graphs created before the moment")
    counted_at = models.DateTimeField(help_text="When all of them were last added up")

    def __str__(self) -> str:
        return f"user {self.user_id} before {self.moment}: {self.size}"


class AttemptCount(models.Model):
    """Attempts (logins and others), counted by a key such as an address, per time window."""

    key = models.CharField(max_length=100, primary_key=True)
    count = models.PositiveIntegerField()
    ends_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return f"{self.key}: {self.count}"


class IdempotencyRecord(models.Model):
    """The first response to a request that carried an `Idempotency-Key`."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="+", db_index=False)
    key = models.CharField(max_length=255)
    fingerprint = models.CharField(max_length=64, help_text="SHA-256 of method, path and body")
    status = models.PositiveSmallIntegerField(default=0)
    # The response as text, not jsonb: the order of its fields must be preserved.
    answer = models.TextField(default="")
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user", "key"], name="idempotency_once")]

    def __str__(self) -> str:
        return f"{self.key} of user {self.user_id}"


from accounts.audit_models import AuditEntry  # noqa: E402, F401
