"""Password change, and password reset by e-mail. Either ends all sessions of the user."""

from __future__ import annotations

from django.conf import settings
from django.contrib.auth import password_validation
from django.contrib.auth.tokens import default_token_generator
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils.encoding import force_str
from django.utils.http import urlsafe_base64_decode
from kombu.exceptions import OperationalError as BrokerUnavailable

from accounts import api_keys, audit, sessions, tasks, throttling
from accounts.models import Session, User
from comfyserve.api.errors import Detail, NotFound, Unavailable, ValidationFailed


def rules_broken(password: str, user: User) -> list[str]:
    """One message for each of Django's validators that the password fails."""
    try:
        password_validation.validate_password(password, user)
    except ValidationError as exc:
        return list(exc.messages)
    return []


def change(*, user: User, current: str, new: str, address: str) -> None:
    """ValidationFailed if `current` is wrong, LimitExceeded after too many attempts."""
    with throttling.login_attempt(email=user.email, address=address) as attempt:
        if not user.check_password(current):
            note = "wrong current password"
            audit.record_refused("password.refused", email=user.email, address=address, note=note)
            raise ValidationFailed.of("current_password", "This is not your current password")
        attempt.succeeded()
    _set(user, new)


def ask_reset(*, email: str, address: str) -> None:
    """Queues the e-mail. Takes as long, and responds the same, if there is no such account.

    The worker looks the account up. NotFound if the operator has configured no e-mail.
    """
    if not settings.EMAIL_HOST:
        raise NotFound("This server does not send e-mail; ask its operator for a new password")
    throttling.password_reset(email=email, address=address)
    try:
        tasks.send_password_reset.delay(email)
    except (BrokerUnavailable, OSError) as exc:
        raise Unavailable("E-mail cannot be sent at the moment; try again shortly") from exc


def reset(*, token: str, new: str) -> None:
    """Sets the password. ValidationFailed if the token is used, expired or invalid, or the password weak."""
    user = _user_of(token)
    with transaction.atomic():
        _set(user, new)
        # A reset may follow an account takeover in which API keys were created for later.
        api_keys.delete_all(user=user)


def _user_of(reset_token: str) -> User:
    uid, _, token = reset_token.partition(".")
    try:
        user = User.objects.get(pk=int(force_str(urlsafe_base64_decode(uid))), is_active=True)
    except (ValueError, OverflowError, User.DoesNotExist):
        user = None
    if user is None or not default_token_generator.check_token(user, token):
        raise ValidationFailed.of("token", "The token is no longer valid; request a new one")
    return user


@transaction.atomic
def _set(user: User, password: str) -> None:
    broken = rules_broken(password, user)
    if broken:
        raise ValidationFailed([Detail("INVALID_VALUE", message, "new_password") for message in broken])
    user.set_password(password)
    user.save(update_fields=["password"])
    sessions.end_all(user=user, reason=Session.End.PASSWORD)
