"""Password hashing."""

from __future__ import annotations

from django.contrib.auth import hashers


class Argon2PasswordHasher(hashers.Argon2PasswordHasher):
    """The second choice of RFC 9106 §4: 64 MiB per hash, where Django's default takes 100.

    Hashes made with other parameters still verify, and are upgraded at the next login.
    """

    time_cost = 3
    memory_cost = 64 * 1024  # KiB
    parallelism = 4
