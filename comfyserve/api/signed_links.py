"""Addresses that work without a header, for one thing and for a while."""

from __future__ import annotations

import time
from urllib.parse import urlencode

from django.core.signing import BadSignature, Signer


class SignedLinks:
    """Links of one kind: a signature of another kind, named by its `salt`, is not good here."""

    def __init__(self, *, salt: str) -> None:
        self._signer = Signer(salt=salt)

    def query(self, subject: str, *, expires: int) -> str:
        """What follows the `?`. `expires`: seconds since the epoch."""
        signature = self._signer.signature(f"{subject}:{expires}")
        return urlencode({"expires": expires, "signature": signature})

    def good(self, subject: str, *, expires: str, signature: str) -> bool:
        """Whether we have made it, for this, and its time is not over. Takes whatever a stranger sends."""
        try:
            self._signer.unsign(f"{subject}:{expires}:{signature}")
            return int(expires) >= time.time()
        except (BadSignature, ValueError):
            return False
