from __future__ import annotations

from django.contrib.auth.hashers import Argon2PasswordHasher


class QuickArgon2(Argon2PasswordHasher):
    """Argon2 at its least: the strength of hashes is nobody's subject in tests, that they are made is."""

    time_cost = 1
    memory_cost = 8  # KiB
    parallelism = 1
