"""Saves, finds and deletes apps. Finding one includes the permission check."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import Group
from django.db import IntegrityError, transaction
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Now

from accounts import idempotency, storage_use
from accounts.models import User
from comfyserve.api.errors import Conflict, Detail, NotFound, ValidationFailed
from files import pins
from workflows.graph import input_files

from . import declaring, parameters
from .models import App, AppVersion, Visibility

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
RESERVED = ("run", "batch", "schema", "versions")  # path segments that follow a name
ADDRESS = re.compile(
    r"(?:(?P<owner>[^/]{1,150})/)?(?P<name>[a-z0-9][a-z0-9_-]{0,62})(?:@(?P<number>\d{1,9}))?"
)


@dataclass(frozen=True)
class Found:
    """A version of an app that the user may run, with the app and its owner."""

    app: App
    version: AppVersion

    @property
    def inputs(self) -> list[parameters.Parameter]:
        return parameters.inputs_of(self.version.inputs)

    @property
    def outputs(self) -> list[parameters.NamedOutput]:
        return parameters.outputs_of(self.version.outputs)


# -- finding ---------------------------------------------------------------------------------------------
def visible_to(user: User) -> QuerySet[App]:
    """The apps that the user may run: the user's own, those shared with a group of the user, and public
    ones.
    """
    shared = Q(visibility=Visibility.EVERYBODY) | Q(
        visibility=Visibility.GROUP, group__in=user.groups.values("id")
    )
    return App.objects.filter(Q(owner=user) | (shared & Q(owner__is_active=True))).select_related(
        "owner", "group"
    )


def find(*, user: User, address: str) -> Found:
    """The version at `address`: `name` or `owner/name`, with `@number` or else the newest.

    A name alone is one of the user's own apps. Raises NotFound if the user may run none of that address.
    """
    app, number = _app(visible_to(user), user, address)
    version = AppVersion.objects.filter(app=app, number=number or app.latest).first()
    if version is None:
        raise NotFound(f"The app {app.address} has no version {number}")
    return Found(app, version)


def find_own(*, user: User, address: str) -> App:
    """The user's own app, to change it. Raises NotFound for all others, even if the user may run them."""
    return _app(visible_to(user).filter(owner=user), user, address)[0]


def _app(rows: QuerySet[App], user: User, address: str) -> tuple[App, int | None]:
    named = ADDRESS.fullmatch(address)
    if named:
        owner = named["owner"] or user.username
        found = rows.filter(owner__username=owner, name=named["name"]).first()
        if found:
            return found, int(named["number"]) if named["number"] else None
    raise NotFound(f"There is no app {address[:100]}")


def newest(apps: Sequence[App]) -> dict[int, AppVersion]:
    """The newest version of each app, by app id, in one query."""
    rows = AppVersion.objects.filter(app__in=apps, number=F("app__latest")).defer("workflow")
    return {version.app_id: version for version in rows}


# -- saving ----------------------------------------------------------------------------------------------
def create(
    *,
    user: User,
    name: str,
    workflow: Any,
    title: str = "",
    description: str = "",
    visibility: str = Visibility.PRIVATE,
    group: str | None = None,
    show_workflow: bool = False,
    inputs: Any = None,
    outputs: Any = None,
) -> Found:
    """Save a new app with its first version.

    `inputs` and `outputs` None: those of the editor's app mode, else inferred. Raises ValidationFailed, and
    Conflict if the user has an app of that name.
    """
    _check_name(name)
    app = App(
        owner=user, name=name, title=title or name.replace("-", " ").replace("_", " ").capitalize(),
        description=description, visibility=visibility, show_workflow=show_workflow,
        group=_group(user, visibility, group),
    )  # fmt: skip
    version = _version(user, workflow, inputs, outputs)
    idempotency.begin_commit()
    try:
        with transaction.atomic():
            app.save(force_insert=True)
            _add(app, version)
    except IntegrityError as exc:
        raise Conflict(f"You have an app '{name}' already; change it, or choose another name") from exc
    app.refresh_from_db(fields=["created_at"])
    return Found(app, version)


def change(*, user: User, address: str, changes: dict[str, Any]) -> Found:
    """Change an app of the user: `changes` has the arguments of `create`, except for the name.

    Another workflow, or other inputs or outputs, make a new version; a new workflow without `inputs` and
    `outputs` has them inferred again.
    """
    app = find_own(user=user, address=address)
    version = None
    if changes.keys() & {"workflow", "inputs", "outputs"}:
        version = _changed_version(user, app, changes)
    with transaction.atomic():
        app = App.objects.select_for_update(of=("self",)).select_related("owner", "group").get(id=app.id)
        for field in ("title", "description", "visibility", "show_workflow"):
            if field in changes:
                setattr(app, field, changes[field])
        if "visibility" in changes or "group" in changes:
            current = app.group.name if app.group else None
            app.group = _group(user, app.visibility, changes.get("group", current))
        if version is not None:
            app.latest += 1
            version.number = app.latest
            _add(app, version)
        app.updated_at = Now()
        app.save(
            update_fields=[
                "title", "description", "visibility", "show_workflow", "group", "latest", "updated_at"
            ]
        )  # fmt: skip
    return find(user=user, address=f"{user.username}/{app.name}")


def _changed_version(user: User, app: App, changes: dict[str, Any]) -> AppVersion:
    before = AppVersion.objects.get(app=app, number=app.latest)
    if "workflow" in changes:
        return _version(user, changes["workflow"], changes.get("inputs"), changes.get("outputs"))
    return _version(
        user,
        before.workflow,
        changes.get("inputs", before.inputs),
        changes.get("outputs", before.outputs),
    )


def delete(*, user: User, address: str) -> None:
    """With all versions. Executions and files made with it stay."""
    remove(find_own(user=user, address=address))


def remove(app: App) -> None:
    """The same for operators, for any owner. Its files are kept as long as others use them."""
    app.delete()


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        message = (
            "A name has 1 to 63 lower-case letters, digits, '-' and '_', and begins with one of the first"
        )
        raise ValidationFailed.of("name", message)
    if name in RESERVED:
        raise ValidationFailed.of("name", f"'{name}' is taken by an address below /apps/; choose another")


def _group(user: User, visibility: str, name: str | None) -> Group | None:
    if visibility != Visibility.GROUP:
        return None
    found = user.groups.filter(name=name or "").first()
    if found is None:
        mine = ", ".join(user.groups.values_list("name", flat=True)[:20]) or "none"
        raise ValidationFailed.of("group", f"Name a group that you are in; yours are: {mine}")
    return found


def _version(user: User, workflow: Any, inputs: Any, outputs: Any) -> AppVersion:
    """Validated but not saved. Files that the workflow carries are stored here."""
    declared = declaring.declare(workflow, user=user, inputs=inputs, outputs=outputs)
    [taken] = input_files.take_all([(declared.graph, frozenset())], user=user)
    prompt = {
        node_id: {**node, "inputs": {name: _plain(value) for name, value in node["inputs"].items()}}
        for node_id, node in taken.prompt.items()
    }
    defaults = {each.default for each in declared.inputs if each.type in parameters.FILES and each.default}
    return AppVersion(
        number=1,
        workflow=declared.source,
        prompt=prompt,
        inputs=[parameters.as_json(each) for each in declared.inputs],
        outputs=[parameters.as_json(each) for each in declared.outputs],
        files=sorted({*taken.files, *defaults}),
    )


def _plain(value: Any) -> Any:
    """Marks are for the queue; a version is the source of many executions."""
    return value.removeprefix(input_files.MARK) if isinstance(value, str) else value


def _add(app: App, version: AppVersion) -> None:
    version.app = app
    size = len(json.dumps([version.workflow, version.prompt, version.inputs]))
    storage_use.check_room(user=app.owner, adding=size)
    version.save(force_insert=True)
    gone = set(version.files) - pins.pin(version.files, holder=version.id)
    if gone:
        raise ValidationFailed(
            Detail("FILE_NOT_FOUND", f"There is no file {file_id}, or it has expired", "workflow")
            for file_id in sorted(gone)
        )
