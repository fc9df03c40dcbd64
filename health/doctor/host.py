"""This machine and its settings."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from django.conf import settings
from django.utils.crypto import get_random_string

from health import system
from workflows.worker import gpus as driver

from .findings import Finding, bad, good, note

KEY_LENGTH = 50
LITTLE_BYTES, TOO_LITTLE_BYTES = 10 * 10**9, 10**9


def settings_make_sense() -> Iterator[Finding]:
    subject = "settings"
    if len(settings.SECRET_KEY) < KEY_LENGTH:
        yield bad(
            subject,
            f"SECRET_KEY has {len(settings.SECRET_KEY)} characters",
            f"Use {KEY_LENGTH} random characters, for example {get_random_string(8)}…; "
            "put the old key into SECRET_KEY_FALLBACKS",
        )
    if settings.DEBUG:
        yield note(subject, "DEBUG is on", "Unset DEBUG where others can reach the service")
    if "*" in settings.ALLOWED_HOSTS:
        yield note(subject, "ALLOWED_HOSTS allows any name", "Set it to the host names of the service")
    if settings.LEASE_SECONDS < 3 * settings.RENEW_SECONDS:
        seen = f"LEASE_SECONDS ({settings.LEASE_SECONDS}) is under three times RENEW_SECONDS"
        yield bad(
            subject, seen, f"Set it to {3 * settings.RENEW_SECONDS} or more: one late renewal loses work"
        )
    if settings.RATE_LIMITS == "off":
        yield note(subject, "rate limits are off", "Set RATE_LIMITS, such as 60/m,1000/h,10000/d")
    if not settings.METRICS_TOKEN:
        yield note(subject, "/metrics/ is public", "Set METRICS_TOKEN, or restrict it to your network")
    yield good(subject, f"read; data in {settings.DATA_DIR}")


def disk() -> Iterator[Finding]:
    folder = system.existing(settings.DATA_DIR)
    usage = shutil.disk_usage(folder)
    seen = f"{usage.free / 1e9:.1f} GB of {usage.total / 1e9:.0f} GB are free on the disk of {folder}"
    if usage.free < TOO_LITTLE_BYTES:
        yield bad("disk", seen, "Free some space, or move DATA_DIR to another disk")
    elif usage.free < LITTLE_BYTES:
        yield note("disk", seen, "Outputs and models need space: free some soon")
    else:
        yield good("disk", seen)


def gpus() -> Iterator[Finding]:
    found = driver.figures()
    if not found:
        yield note("gpu", "no NVIDIA GPU on this machine", "Fine if no GPU worker runs here; a CPU is slow")
    for gpu in found:
        total = (gpu["memory_total"] or 0) / 2**30
        yield good("gpu", f"{gpu['index']}: {gpu['name']}, {total:.0f} GiB")
