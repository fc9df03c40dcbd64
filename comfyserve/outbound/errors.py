"""Why an outbound request failed.

OutboundError            `str()` is a sentence for the user, without internal addresses
├── Refused              the address itself is not acceptable: an error of the caller
├── Unreachable          no connection, or it was lost; a retry may help
├── TookTooLong          deadline exceeded; a retry may help
├── TooLarge             more bytes than the limit
└── Unusable             the response is unusable: endless redirects, compressed, malformed
"""

from __future__ import annotations


class OutboundError(Exception):
    @property
    def message(self) -> str:
        return str(self)


class Refused(OutboundError):
    pass


class Unreachable(OutboundError):
    pass


class TookTooLong(OutboundError):
    pass


class TooLarge(OutboundError):
    pass


class Unusable(OutboundError):
    pass
