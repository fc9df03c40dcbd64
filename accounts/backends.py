"""Password checks with brute-force protection. The admin's login form uses them as well."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.backends import ModelBackend
from django.http import HttpRequest

from accounts import audit, throttling
from accounts.models import User
from comfyserve.api.clients import client_address
from comfyserve.api.errors import LimitExceeded


class ThrottledBackend(ModelBackend):
    def authenticate(
        self,
        request: HttpRequest | None,
        username: str | None = None,
        password: str | None = None,
        **kwargs: Any,
    ) -> User | None:
        """The user, or None; as slow for an unknown address as for a wrong password. LimitExceeded.

        A rejection is recorded in the audit log.
        """
        if request is None:  # a management command, not a login attempt
            return super().authenticate(request, username, password, **kwargs)
        email, address = username or kwargs.get("email") or "", client_address(request)
        try:
            with throttling.login_attempt(email=email, address=address) as attempt:
                user = super().authenticate(request, email, password)
                if user is not None:
                    attempt.succeeded()
        except LimitExceeded:
            audit.record_refused("login.refused", email=email, address=address, note="too many attempts")
            raise
        if user is None:
            audit.record_refused(
                "login.refused", email=email, address=address, note="wrong password or e-mail address"
            )
        return user
