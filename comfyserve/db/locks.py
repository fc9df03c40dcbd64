"""The numbers of all advisory locks: the first key of PostgreSQL's two-key locks.

One list, so that no two purposes ever share a number. The second key says which one of its kind.
"""

from __future__ import annotations

import enum


@enum.unique
class AdvisoryLock(enum.IntEnum):
    SUBMISSIONS = 1  # of one user: quotas hold, places in the order do not collide
    BACKEND = 2  # one process serves a ComfyUI (session lock on the connection that renews its leases)
    FOLDING = 4  # one process folds the figures
    WEBHOOKS = 5  # one process chooses deliveries, so that limits per host and user hold
    STORAGE = 0x5354  # of one user: the storage quota holds
