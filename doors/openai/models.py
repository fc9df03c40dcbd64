"""The available models: the apps that the user may run, and an operator's aliases of some of them."""

from __future__ import annotations

from typing import Any

from django.conf import settings

from accounts.models import User
from apps_catalog import catalog
from apps_catalog.models import App
from comfyserve.api.errors import Detail, NotFound

MAX_LISTED = 1000


def find(*, user: User, name: str) -> catalog.Found:
    """The app that a request's `model` refers to. Raises NotFound if the user may run none of that name."""
    try:
        return catalog.find(user=user, address=settings.OPENAI_MODELS.get(name, name))
    except NotFound as exc:
        message = f"The model '{name[:100]}' does not exist or you do not have access to it"
        raise NotFound(message, details=[Detail("model_not_found", message, "model")]) from exc


def listed(*, user: User) -> list[dict[str, Any]]:
    """Aliases first, then the newest apps."""
    rows = catalog.visible_to(user).order_by("-created_at", "-id")[:MAX_LISTED]
    apps = [described(app.address, app) for app in rows]
    aliases = []
    for name in settings.OPENAI_MODELS:
        try:
            aliases.append(described(name, find(user=user, name=name).app))
        except NotFound:
            continue  # this user may not run it
    return aliases + apps


def described(name: str, app: App) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": int(app.created_at.timestamp()),
        "owned_by": app.owner.username,
    }
