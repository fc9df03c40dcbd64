"""System checks of settings that depend on each other."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register


@register()
def leases_outlast_renewals(**_: Any) -> list[CheckMessage]:
    """If two missed renewals ended a lease, the first hiccup would requeue running executions."""
    if settings.RENEW_SECONDS * 3 <= settings.LEASE_SECONDS:
        return []
    message = (
        f"LEASE_SECONDS ({settings.LEASE_SECONDS}) must be at least three times RENEW_SECONDS "
        f"({settings.RENEW_SECONDS})"
    )
    return [Error(message, id="workflows.E001")]
