"""All advisory lock numbers: the first key of PostgreSQL's two-key locks.

One list, so that no two purposes share a number. The second key identifies the object.
"""

from __future__ import annotations

import enum


@enum.unique
class AdvisoryLock(enum.IntEnum):
    SUBMISSIONS = 1  # per user: serialises quota checks and the assignment of queue positions
    BACKEND = 2  # one process serves a ComfyUI (session lock on the connection that renews its leases)
    FOLDING = 4  # one process aggregates the metrics
    WEBHOOKS = 5  # one process selects deliveries, so that limits per host and user hold
    DELIVERIES = 7  # one process selects files to deliver, so that limits per user hold
    USERNAMES = 6  # per name, ignoring case: serialises registrations
    STORAGE = 0x5354  # per user: serialises storage quota checks
