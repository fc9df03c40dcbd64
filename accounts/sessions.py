"""The session life cycle: the only code that starts, rotates and ends sessions.

Tokens are checked against the session's row on every request, so ending a session revokes its tokens
immediately, and flushing Redis restores none.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.models import Session as BrowserSession
from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now
from django.utils import timezone
from rest_framework_simplejwt.exceptions import TokenError

from accounts import audit, user_rows
from accounts.models import Session, User
from accounts.tokens import Access, Refresh
from comfyserve.api.errors import Unauthorized
from comfyserve.db import rows
from comfyserve.db.rows import Columns

logger = logging.getLogger(__name__)

# A refresh token may be reused for this long, with the same response: two tabs, a lost response.
GRACE = timedelta(seconds=10)


@dataclass(frozen=True)
class TokenPair:
    access_token: str
    refresh_token: str
    token_type: str = "bearer"  # noqa: S105
    expires_in: int = int(Access.lifetime.total_seconds())


def start(*, user: User, address: str | None = None, user_agent: str = "") -> TokenPair:
    now = timezone.now()
    with transaction.atomic():
        session = Session.objects.create(
            user=user,
            password_stamp=user.password_stamp,
            issued=[now],
            expires_at=now + Refresh.lifetime,
            address=address,
            user_agent=user_agent[:200],
        )
        audit.record("login", on=user, actor=user, note=user_agent)
    return _pair(session, generation=0, issued=now)


def rotate(*, refresh_token: str) -> TokenPair:
    """A new pair for a refresh token. Reused within GRACE: the same pair; later: the session ends."""
    token = _read(refresh_token)
    pair = _rotate(token)
    if pair is None:
        raise Unauthorized("The refresh token is no longer valid; log in again")
    return pair


def find(*, access_token: str) -> Session | None:
    """The active session of an access token, with user and limits, in one query. None if there is none."""
    try:
        token = Access(access_token)  # type: ignore[arg-type]
        session_id = token.session_id
    except (TokenError, KeyError, ValueError):
        return None
    row = rows.prepared(_FIND_SQL, [session_id]).fetchone()
    if row is None:
        return None
    session = _SESSION.read(row)
    session.user = user_rows.read(row, at=len(_SESSION))
    return session if session.password_stamp == session.user.password_stamp else None


_SESSION = Columns(Session, "c")
_FIND_SQL = f"""
    SELECT {_SESSION}, {user_rows.COLUMNS} FROM accounts_session c {user_rows.JOINS}
    WHERE c.id = %s AND c.ended_at IS NULL AND u.is_active
"""  # noqa: S608  (no value of a user in it)


@transaction.atomic
def end(*, session: Session, reason: Session.End) -> None:
    if Session.objects.filter(id=session.id, ended_at=None).update(ended_at=Now(), end_reason=reason):
        audit.record(_audit_action(reason), on=session.user, note=_why(reason, 1))


@transaction.atomic
def end_all(*, user: User, reason: Session.End) -> int:
    """Ends every session of the user, including those of the console; returns how many."""
    ended = Session.objects.filter(user=user, ended_at=None).update(ended_at=Now(), end_reason=reason)
    ended += _end_in_console(user)
    if ended:
        audit.record(_audit_action(reason), on=user, note=_why(reason, ended))
    return ended


def _end_in_console(user: User) -> int:
    """Staff browsers use Django's own sessions, which are few and not indexed by user."""
    if not user.is_staff:
        return 0
    open_ones = BrowserSession.objects.filter(expire_date__gt=Now())
    own = [each.pk for each in open_ones if each.get_decoded().get(SESSION_KEY) == str(user.pk)]
    return BrowserSession.objects.filter(pk__in=own).delete()[0]


def _audit_action(reason: Session.End) -> str:
    return "logout" if reason == Session.End.LOGOUT else "session.end"


def _why(reason: Session.End, number: int) -> str:
    return f"{number} session{'s' if number != 1 else ''}: {reason.value}"


def _read(refresh_token: str) -> Refresh:
    try:
        token = Refresh(refresh_token)  # type: ignore[arg-type]
        _ = token.session_id, token.generation  # both must be present
    except (TokenError, KeyError, ValueError) as exc:
        raise Unauthorized("The refresh token is not valid") from exc
    return token


@transaction.atomic
def _rotate(token: Refresh) -> TokenPair | None:
    """Locked, so that concurrent refreshes are serialised. None: rejected."""
    session = (
        Session.objects.select_for_update(of=("self",))
        .select_related("user")
        .filter(id=token.session_id, ended_at=None, user__is_active=True)
        .first()
    )
    if session is None or session.password_stamp != session.user.password_stamp:
        return None
    now = timezone.now()
    if token.generation == session.generation:
        return _advance(session, now)
    again = _issued_for(session, token.generation)
    if again is not None and now - again <= GRACE:
        return _pair(session, generation=token.generation + 1, issued=again)
    end(session=session, reason=Session.End.THEFT)
    logger.warning(
        "refresh token used again; session ended",
        extra={"action": "session_theft", "session_id": str(session.id), "user_id": session.user_id},
    )
    return None


def _advance(session: Session, now: datetime) -> TokenPair:
    issued = [moment for moment in session.issued if now - moment <= GRACE] + [now]
    Session.objects.filter(id=session.id).update(
        generation=F("generation") + 1, issued=issued, expires_at=now + Refresh.lifetime
    )
    return _pair(session, generation=session.generation + 1, issued=now)


def _issued_for(session: Session, used: int) -> datetime | None:
    """When the pair was issued for which the refresh token of generation `used` was exchanged."""
    back = session.generation - used  # the current generation is the last of `issued`
    return session.issued[-back] if 0 < back <= len(session.issued) else None


def _pair(session: Session, *, generation: int, issued: datetime) -> TokenPair:
    def make(kind: type[Access] | type[Refresh]) -> str:
        return kind.make(session=session.id, user=session.user_id, generation=generation, issued=issued)

    return TokenPair(access_token=make(Access), refresh_token=make(Refresh))
