"""Secrets of users that we must be able to use: encrypted in the database with a key that is not in it.

The key is derived from SECRET_KEY; what was encrypted under one of SECRET_KEY_FALLBACKS can still be read.
"""

from __future__ import annotations

import base64
import hashlib

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings


class Unreadable(Exception):
    """It was encrypted under a key that is no longer configured."""


def encrypt(text: str) -> str:
    """Different each time."""
    return _box().encrypt(text.encode()).decode()


def decrypt(encrypted: str) -> str:
    """Raises Unreadable."""
    try:
        return _box().decrypt(encrypted.encode()).decode()
    except InvalidToken as exc:
        raise Unreadable("A secret was stored under another SECRET_KEY; save it again") from exc


def _box() -> MultiFernet:
    return MultiFernet([_key(each) for each in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)])


def _key(secret: str) -> Fernet:
    digest = hashlib.sha256(b"comfyserve.secret_box\0" + secret.encode()).digest()
    return Fernet(base64.urlsafe_b64encode(digest))
