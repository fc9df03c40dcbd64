"""Account registration."""

from __future__ import annotations

from django.conf import settings
from django.db import IntegrityError, connection, transaction

from accounts import audit, throttling
from accounts.models import User
from comfyserve.api.errors import Detail, Forbidden, ValidationFailed
from comfyserve.db.locks import AdvisoryLock


def register(*, email: str, username: str, password: str, address: str) -> User:
    """A new user. ValidationFailed if the e-mail address or the username is taken, ignoring case.

    The response does not say which of the two it was. The password is hashed before the lookup, so that
    timing reveals nothing.
    """
    if settings.REGISTRATION != "open":
        raise Forbidden("Registration is closed on this server; ask its operator for an account")
    throttling.registration(email=email, address=address)
    user = User(email=User.objects.normalize_email(email), username=username)
    user.set_password(password)
    try:
        with transaction.atomic():
            _check_username(username)
            user.save(force_insert=True)
            audit.record("user.register", on=user, actor=user)
    except IntegrityError as exc:
        raise _not_available() from exc
    return user


def _check_username(username: str) -> None:
    """Refuse a username that differs from another only in case.

    A lock and not a unique constraint: installations may have such users already. It is held until the
    registration is committed, so that two at once cannot both pass.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_advisory_xact_lock(%s, hashtext(upper(%s)))", [int(AdvisoryLock.USERNAMES), username]
        )
    if User.objects.filter(username__iexact=username).exists():
        raise _not_available()


def _not_available() -> ValidationFailed:
    message = "This e-mail address or username cannot be used"
    return ValidationFailed([Detail("NOT_AVAILABLE", message)])
