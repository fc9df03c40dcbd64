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
            if username_taken(username):
                raise _not_available()
            user.save(force_insert=True)
            audit.record("user.register", on=user, actor=user)
    except IntegrityError as exc:
        raise _not_available() from exc
    return user


def username_taken(username: str, *, but: User | None = None) -> bool:
    """Whether a user other than `but` has this username, ignoring case. Call it inside a transaction.

    A lock and not a unique constraint: installations may have such users already. It is held until the
    transaction ends, so that two at once cannot both pass.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_advisory_xact_lock(%s, hashtext(upper(%s)))", [int(AdvisoryLock.USERNAMES), username]
        )
    others = User.objects.exclude(pk=but.pk) if but is not None and but.pk else User.objects.all()
    return others.filter(username__iexact=username).exists()


def _not_available() -> ValidationFailed:
    message = "This e-mail address or username cannot be used"
    return ValidationFailed([Detail("NOT_AVAILABLE", message)])
