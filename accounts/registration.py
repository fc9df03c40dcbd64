"""Account registration."""

from __future__ import annotations

from django.conf import settings
from django.db import IntegrityError, connection, transaction
from django.db.models import CharField, Func, Q, Value
from django.db.models.functions import Lower, Upper

from accounts import audit, throttling
from accounts.models import User
from comfyserve.api.errors import Detail, Forbidden, ValidationFailed
from comfyserve.db.locks import AdvisoryLock


def register(*, email: str, username: str, password: str, address: str) -> User:
    """A new user. ValidationFailed if the e-mail address or the username is taken, ignoring case and width.

    The response does not say which of the two it was. The password is hashed before the lookup, so that
    timing reveals nothing.
    """
    if settings.REGISTRATION != "open":
        raise Forbidden("Registration is closed on this server; ask its operator for an account")
    throttling.registration(email=email, address=address)
    username = User.normalize_username(username)
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
    """Whether a user other than `but` has this username, ignoring case and forms of a character (full width,
    ligatures). Call it inside a transaction.

    A lock and not a unique constraint: installations may have such users already. It is held until the
    transaction ends, so that two at once cannot both pass.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_advisory_xact_lock(%s, hashtext(upper(%s)))", [int(AdvisoryLock.USERNAMES), username]
        )
    others = User.objects.exclude(pk=but.pk) if but is not None and but.pk else User.objects.all()
    # Both: İ and i are the same in lower case only, and the dotless i is an I in upper case only.
    others = others.alias(upper=Upper(_Plain("username")), lower=Lower(_Plain("username")))
    given = _Plain(Value(username))
    return others.filter(Q(upper=Upper(given)) | Q(lower=Lower(given))).exists()


class _Plain(Func):
    """Characters in their plain forms, as `normalize_username` stores them; older rows may differ."""

    template = "normalize(%(expressions)s, NFKC)"
    output_field = CharField()


def _not_available() -> ValidationFailed:
    message = "This e-mail address or username cannot be used"
    return ValidationFailed([Detail("NOT_AVAILABLE", message)])
