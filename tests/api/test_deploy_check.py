from __future__ import annotations

import os
import subprocess
import sys

from django.conf import settings


def test_check_deploy_has_nothing_to_say() -> None:
    """As an operator runs it: behind HTTPS, with a good key."""
    env = os.environ | {"HTTPS": "true", "DJANGO_SETTINGS_MODULE": "comfyserve.settings"}
    env["SECRET_KEY"] = "x7!kQ2mW9#rT4vY6zB1nC8dF3gH5jL0pS-aE_uI=oK+wXq8Zt4Rb"
    done = subprocess.run(
        [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"],
        cwd=settings.BASE_DIR,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no issues" in done.stdout


def test_a_short_signing_key_stops_the_start() -> None:
    env = os.environ | {"JWT_SIGNING_KEY": "short", "DJANGO_SETTINGS_MODULE": "comfyserve.settings"}
    done = subprocess.run(
        [sys.executable, "manage.py", "check"], cwd=settings.BASE_DIR, env=env, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "accounts.E001" in done.stderr
