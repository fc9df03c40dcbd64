"""Checks that must pass before the service starts."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core import checks

KEY_BYTES = 32  # HMAC-SHA256 needs a key no shorter than its output


class AccountsConfig(AppConfig):
    name = "accounts"

    def ready(self) -> None:
        from accounts import signals  # noqa: F401  (connects itself)

        checks.register(check_signing_keys)
        checks.register(check_choices)


def check_signing_keys(**_: Any) -> list[checks.CheckMessage]:
    keys = (settings.JWT_SIGNING_KEY, *settings.JWT_SIGNING_KEY_FALLBACKS)
    if all(len(key.encode()) >= KEY_BYTES for key in keys):
        return []
    message = f"JWT_SIGNING_KEY (or SECRET_KEY in its place) and its fallbacks need {KEY_BYTES} bytes each"
    return [checks.Error(message, id="accounts.E001")]


def check_choices(**_: Any) -> list[checks.CheckMessage]:
    from comfyserve.api import rates

    found: list[checks.CheckMessage] = []
    if settings.REGISTRATION not in ("open", "closed"):
        found.append(checks.Error("REGISTRATION is open or closed", id="accounts.E002"))
    try:
        rates.parse(settings.RATE_LIMITS)
    except ValueError as exc:
        found.append(checks.Error(f"RATE_LIMITS: {exc}", id="accounts.E003"))
    return found
