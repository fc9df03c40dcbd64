from __future__ import annotations

import pytest
from django.core.management import call_command
from django.core.management.base import SystemCheckError


def test_a_lease_that_renewals_cannot_hold_stops_the_start(settings):
    settings.LEASE_SECONDS, settings.RENEW_SECONDS = 5, 4
    with pytest.raises(SystemCheckError, match="LEASE_SECONDS"):
        call_command("check")
