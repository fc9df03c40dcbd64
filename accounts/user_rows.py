"""Users with their limits, as part of a query that finds them by a credential `c`.

SELECT {columns}, {user_rows.COLUMNS} FROM accounts_session c {user_rows.JOINS} WHERE ...
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from accounts.models import User, UserLimits
from comfyserve.db.rows import Columns

_USER, _LIMITS = Columns(User, "u"), Columns(UserLimits, "l")
COLUMNS = f"{_USER}, {_LIMITS}"
JOINS = "JOIN accounts_user u ON u.id = c.user_id LEFT JOIN accounts_userlimits l ON l.user_id = u.id"


def read(row: Sequence[Any], *, at: int) -> User:
    """The user whose columns start at that position of the row. Its limits need no query later."""
    user, limits = _USER.read(row, at=at), _LIMITS.read(row, at=at + len(_USER))
    User.limits.related.set_cached_value(user, limits if limits.pk else None)
    return user
