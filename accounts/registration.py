"""Account registration."""

from __future__ import annotations

from django.conf import settings
from django.db import IntegrityError, transaction

from accounts import audit, throttling
from accounts.models import User
from comfyserve.api.errors import Detail, Forbidden, ValidationFailed


def register(*, email: str, username: str, password: str, address: str) -> User:
    """A new user. ValidationFailed if the e-mail address (ignoring case) or the username is taken.

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
            user.save(force_insert=True)
            audit.record("user.register", on=user, actor=user)
    except IntegrityError as exc:
        message = "This e-mail address or username cannot be used"
        raise ValidationFailed([Detail("NOT_AVAILABLE", message)]) from exc
    return user
