"""Signal receivers: sessions end with their user, and admin logins are recorded in the audit log.

API logins are recorded where its sessions start and end.
"""

from __future__ import annotations

from typing import Any

from django.contrib.auth.signals import user_logged_in, user_logged_out
from django.db.models.signals import post_save
from django.dispatch import receiver
from django.http import HttpRequest

from accounts import audit, sessions
from accounts.models import Session, User


@receiver(user_logged_in, dispatch_uid="audit_login")
def _logged_in(request: HttpRequest | None, user: User, **_: Any) -> None:
    agent = request.headers.get("User-Agent", "") if request else ""
    audit.record("login", on=user, actor=user, note=agent)


@receiver(user_logged_out, dispatch_uid="audit_logout")
def _logged_out(user: User | None, **_: Any) -> None:
    if user is not None:  # no user was logged in
        audit.record("logout", on=user, actor=user)


@receiver(post_save, sender=User, dispatch_uid="user_saved")
def _user_saved(instance: User, created: bool, raw: bool, **_: Any) -> None:
    """Record a new password, however it is set, and end all sessions of a deactivated user, so that
    reactivation does not restore them."""
    if raw:  # a fixture
        return
    # Django keeps the plain text here until the row is saved; a mere rehash is not a change.
    if not created and getattr(instance, "_password", None) is not None:
        audit.record("password.change", on=instance)
    if not instance.is_active:
        sessions.end_all(user=instance, reason=Session.End.DEACTIVATED)
