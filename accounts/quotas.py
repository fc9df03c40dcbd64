"""What a user may have at once: defaults from settings, exceptions in the user's `UserLimits`."""

from __future__ import annotations

from django.conf import settings

from accounts.models import User, UserLimits
from comfyserve.api.errors import LimitExceeded


def running_at_once(*, user_id: int) -> int | None:
    """How many executions of the user may run at the same time; None: as many as there are GPUs."""
    found = UserLimits.objects.filter(user_id=user_id).values_list("executions_running", flat=True).first()
    limit: int | None = found if found is not None else settings.QUOTA_EXECUTIONS_RUNNING
    return limit


def highest_priority(*, user_id: int) -> str | None:
    """The cap that staff set on the user's priority; None: any."""
    return UserLimits.objects.filter(user_id=user_id).values_list("highest_priority", flat=True).first()


def check_submission(*, user: User, waiting: int) -> None:
    """LimitExceeded where the user has as many waiting as allowed.

    The caller holds the user's submission lock, so that parallel submissions cannot pass it together.
    """
    found = UserLimits.objects.filter(user=user).values_list("executions_waiting", flat=True).first()
    limit = found if found is not None else settings.QUOTA_EXECUTIONS_WAITING
    if limit is not None and waiting >= limit:
        raise LimitExceeded(
            f"Quota exceeded: at most {limit} executions may wait at once", headers={"Retry-After": "60"}
        )
