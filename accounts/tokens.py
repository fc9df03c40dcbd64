"""Access and refresh tokens: signed JWTs that identify a session and one of its generations.

A token is derived from its session's row alone, so creating it twice gives the same text. The row
(`sessions.py`) decides what it may do; the signature only proves that we issued it.
"""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from django.conf import settings
from rest_framework_simplejwt import tokens
from rest_framework_simplejwt.backends import TokenBackend
from rest_framework_simplejwt.exceptions import TokenBackendError, TokenBackendExpiredToken

REMEMBERED = 2_000  # tokens, in each process


class KeyRing(TokenBackend):
    """Signs with the first key, and accepts signatures of the others, so that keys can be rotated.

    Tokens that were found good are remembered: a signature stays good, and `Token` checks the expiry each
    time.
    """

    def __init__(self, keys: tuple[str, ...]) -> None:
        super().__init__("HS256", keys[0])
        self.old = [TokenBackend("HS256", key) for key in keys[1:]]
        self._cached_decoded = lru_cache(maxsize=REMEMBERED)(self._decoded)

    def decode(self, token: Any, verify: bool = True) -> dict[str, Any]:
        if not verify or not isinstance(token, str):
            return self._decoded(token, verify)
        return dict(self._cached_decoded(token))

    def _decoded(self, token: Any, verify: bool = True) -> dict[str, Any]:
        try:
            return super().decode(token, verify)
        except TokenBackendExpiredToken:
            raise  # our signature, but expired
        except TokenBackendError:
            for backend in self.old:
                try:
                    return backend.decode(token, verify)
                except TokenBackendExpiredToken:
                    raise
                except TokenBackendError:
                    continue
            raise


@lru_cache(maxsize=8)
def _ring(keys: tuple[str, ...]) -> KeyRing:
    return KeyRing(keys)


class _SessionToken(tokens.Token):
    def get_token_backend(self) -> TokenBackend:
        return _ring((settings.JWT_SIGNING_KEY, *settings.JWT_SIGNING_KEY_FALLBACKS))

    @classmethod
    def make(cls, *, session: uuid.UUID, user: int, generation: int, issued: datetime) -> str:
        token = cls()
        # No time of issue: a server whose clock is behind would reject the tokens of the others.
        del token.payload["iat"]
        token.set_exp(from_time=issued, lifetime=cls.lifetime)
        token["jti"] = f"{session.hex}.{generation}.{cls.token_type}"
        token["user_id"] = str(user)
        token["sid"] = session.hex
        token["gen"] = generation
        return str(token)

    @property
    def session_id(self) -> uuid.UUID:
        return uuid.UUID(str(self.payload["sid"]))

    @property
    def generation(self) -> int:
        return int(self.payload["gen"])


class Access(_SessionToken):
    token_type = "access"  # noqa: S105
    lifetime = timedelta(minutes=settings.ACCESS_TOKEN_MINUTES)


class Refresh(_SessionToken):
    token_type = "refresh"  # noqa: S105
    lifetime = timedelta(days=settings.REFRESH_TOKEN_DAYS)
