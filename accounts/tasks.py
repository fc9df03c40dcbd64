"""Thin Celery entry points."""

from __future__ import annotations

from celery import shared_task


@shared_task(name="accounts.tasks.send_password_reset")
def send_password_reset(email: str) -> None:
    from accounts import password_mail

    password_mail.send_reset(email=email)


@shared_task(name="accounts.tasks.clean")
def clean() -> None:
    from accounts import cleaning
    from comfyserve.cleaning import run

    run(cleaning.clean)
