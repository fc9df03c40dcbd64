"""Logins and logouts of the admin, which is Django's own code and tells of them by signals only.

The API's are recorded where its sessions start and end.
"""

from __future__ import annotations

from typing import Any

from django.contrib.auth.signals import user_logged_in, user_logged_out
from django.dispatch import receiver
from django.http import HttpRequest

from accounts import audit
from accounts.models import User


@receiver(user_logged_in, dispatch_uid="audit_login")
def _logged_in(request: HttpRequest | None, user: User, **_: Any) -> None:
    agent = request.headers.get("User-Agent", "") if request else ""
    audit.record("login", on=user, actor=user, note=agent)


@receiver(user_logged_out, dispatch_uid="audit_logout")
def _logged_out(user: User | None, **_: Any) -> None:
    if user is not None:  # nobody was logged in
        audit.record("logout", on=user, actor=user)
