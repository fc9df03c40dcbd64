"""The password reset e-mail; sent by a Celery worker."""

from __future__ import annotations

import logging

from django.conf import settings
from django.contrib.auth.tokens import default_token_generator
from django.core.mail import send_mail
from django.utils.http import urlsafe_base64_encode

from accounts.models import User

logger = logging.getLogger(__name__)

TEXT = """Someone, perhaps you, asked to reset the password of {email}.

{how}

It works once, and for {minutes} minutes. If it was not you, do nothing: your password stays as it is.
"""
WITH_PAGE = "Open this page to choose a new one:\n\n{page}"
WITHOUT_PAGE = "Send this token with a new password to POST /auth/password/reset/confirm:\n\n{token}"


def send_reset(*, email: str) -> None:
    """Sends the e-mail; does nothing if no active user has this address."""
    try:
        user = User.objects.get_by_natural_key(email)
    except User.DoesNotExist:
        return
    if not user.is_active:
        return
    token = f"{urlsafe_base64_encode(str(user.pk).encode())}.{default_token_generator.make_token(user)}"
    page = settings.PASSWORD_RESET_PAGE.replace("{token}", token)
    how = WITH_PAGE.format(page=page) if page else WITHOUT_PAGE.format(token=token)
    text = TEXT.format(email=user.email, how=how, minutes=settings.PASSWORD_RESET_TIMEOUT // 60)
    send_mail("Reset your password", text, None, [user.email])
    logger.info("password reset sent", extra={"action": "password_reset_sent", "user_id": user.pk})
