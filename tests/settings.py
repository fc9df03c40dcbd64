"""The settings for tests, with fast password hashing: a few hundred users register and log in."""

from __future__ import annotations

from comfyserve.settings import *  # noqa: F403

# The hasher in use takes 100 MB and a fifth of a second of both cores. This is the same one, told to do less.
PASSWORD_HASHERS = ["tests.hashing.QuickArgon2", "django.contrib.auth.hashers.PBKDF2PasswordHasher"]
