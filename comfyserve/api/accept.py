"""Which of several types a client prefers, by its `Accept` header (RFC 9110, section 12.5.1)."""

from __future__ import annotations

from django.http import HttpRequest


def preferred(request: HttpRequest, *offered: str) -> str | None:
    """The first of equals; None if it accepts none of them. Types are compared by their names: whatever the
    parameters, such as `charset=utf-8`, the response is the same.
    """
    accepted = (f"{each.main_type}/{each.sub_type};q={each.quality}" for each in request.accepted_types)
    by_name = HttpRequest()
    by_name.META["HTTP_ACCEPT"] = ",".join(accepted)
    return by_name.get_preferred_type(offered)
