"""Signed URLs that need no Authorization header, for one resource and a limited time."""

from __future__ import annotations

import time
from urllib.parse import urlencode

from django.core.signing import BadSignature, Signer


class SignedLinks:
    """Links of one kind: a signature of another kind, named by its `salt`, is rejected."""

    def __init__(self, *, salt: str) -> None:
        self._signer = Signer(salt=salt)

    def query(self, subject: str, *, expires: int) -> str:
        """The query string. `expires`: seconds since the epoch."""
        signature = self._signer.signature(f"{subject}:{expires}")
        return urlencode({"expires": expires, "signature": signature})

    def is_valid(self, subject: str, *, expires: str, signature: str) -> bool:
        """Whether we signed it for this subject and it has not expired. Accepts any input."""
        try:
            self._signer.unsign(f"{subject}:{expires}:{signature}")
            return int(expires) >= time.time()
        except (BadSignature, ValueError):
            return False
