"""Apps as the API shows them."""

from __future__ import annotations

from typing import Any

from accounts.models import User

from . import parameters
from .catalog import Found
from .models import App, AppVersion


def app(found: Found, *, user: User, whole: bool = False) -> dict[str, Any]:
    """`whole`: with the workflow, if the user may see it."""
    row, version = found.app, found.version
    shown = {
        "app": row.address,
        "name": row.name,
        "owner": row.owner.username,
        "title": row.title,
        "description": row.description,
        "visibility": row.visibility,
        "group": row.group.name if row.group else None,
        "show_workflow": row.show_workflow,
        "is_own": row.owner_id == user.pk,
        "version": version.number,
        "latest_version": row.latest,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "inputs": _inputs(row, version, user),
        "outputs": _outputs(row, version, user),
    }
    if whole and _may_see(row, user):
        shown["workflow"] = version.workflow
    return shown


def version(row: App, found: AppVersion, *, user: User) -> dict[str, Any]:
    return {
        "version": found.number,
        "created_at": found.created_at,
        "inputs": _inputs(row, found, user),
        "outputs": _outputs(row, found, user),
    }


def schema(found: Found, *, user: User) -> dict[str, Any]:
    return {
        "app": found.app.address,
        "version": found.version.number,
        "inputs": parameters.schema_of(found.inputs, found.version.prompt),
        "outputs": _outputs(found.app, found.version, user),
    }


def _may_see(row: App, user: User) -> bool:
    return row.show_workflow or row.owner_id == user.pk


def _inputs(row: App, found: AppVersion, user: User) -> list[dict[str, Any]]:
    """The node of each is part of the workflow."""
    return [_shown(each, may_see=_may_see(row, user)) for each in found.inputs]


def _outputs(row: App, found: AppVersion, user: User) -> list[dict[str, Any]]:
    return [_shown(each, may_see=_may_see(row, user)) for each in found.outputs]


def _shown(each: dict[str, Any], *, may_see: bool) -> dict[str, Any]:
    return each if may_see else {name: value for name, value in each.items() if name not in ("node", "input")}
