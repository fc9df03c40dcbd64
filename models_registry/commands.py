"""Load, unload and cleanup as commands: the API writes a row and waits, the worker executes it and reports.

A command that is not finished when the API stops waiting still runs, and the response is 202; a repeated
request joins the same command.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction

from accounts import audit
from comfyserve.api.errors import ApiError, NotFound, Unavailable, Unprocessable, ValidationFailed

from . import loading, queries, tickets
from .models import Command, Host, Model, ModelFile

FIRST_LOOK, LONGEST_LOOK = 0.03, 0.25  # seconds between polls of the result
LATER = "The GPU is busy; the command runs as soon as the current execution has ended"
OPEN = (Command.State.WAITING, Command.State.TAKEN)


@dataclass(frozen=True)
class Done:
    """The workers' results, by host name; `waiting` are those that will finish later."""

    answers: dict[str, dict[str, Any]]
    waiting: Sequence[str] = ()

    @property
    def notes(self) -> list[str]:
        return list(dict.fromkeys(answer["note"] for answer in self.answers.values() if answer.get("note")))


def load(*, model: Model, worker: str | None) -> Done:
    """Load the model and return when it is in memory: on `worker`, else where most memory is free."""
    if model.type not in loading.LOADERS:
        raise ValidationFailed.of(
            "model_type",
            f"A model of type {model.type} cannot be preloaded; workflows that use it load it. "
            f"These can be: {', '.join(loading.LOADERS)}",
        )
    files = _files(model, worker)
    host = _joined(model, files) or _roomiest(files)
    return _do(Command.Kind.LOAD, [host], model=model)


def unload(*, model: Model, worker: str | None, keep_in_ram: bool = False) -> Done:
    """Unload the model everywhere, or on `worker`."""
    hosts = [file.host for file in _files(model, worker)]
    return _do(Command.Kind.UNLOAD, hosts, model=model, arguments={"drop": not keep_in_ram})


def cleanup(*, max_age_hours: int, worker: str | None) -> Done:
    """Unload models that have not been used for that long."""
    hosts = queries.chosen_hosts(worker)  # none: no models are loaded
    return _do(Command.Kind.CLEANUP, hosts, arguments={"max_age_hours": max_age_hours})


def require_done(done: Done) -> None:
    """Unavailable if some worker has not finished yet."""
    if done.waiting:
        raise Unavailable(LATER, retry_after=10)


# -- hosts ---------------------------------------------------------------------------------------------
def _files(model: Model, worker: str | None) -> list[ModelFile]:
    """The model's files on live hosts. NotFound if the chosen worker has none."""
    hosts = queries.some_hosts(worker)
    files = model.files.select_related("host").defer("metadata").filter(host__in=hosts)
    found = list(files)
    if not found:
        where = f"on worker {worker}" if worker else "on any worker that is alive"
        raise NotFound(f"The {model.type} {model.name} is not {where}")
    return found


def _joined(model: Model, files: Sequence[ModelFile]) -> Host | None:
    """Where it is loaded, or being loaded: a repeated request does not load it twice."""
    hosts = {file.host_id: file.host for file in files}
    pending = Command.objects.filter(
        kind=Command.Kind.LOAD, type=model.type, name=model.name, state__in=OPEN, host_id__in=hosts
    ).values_list("host_id", flat=True)
    loaded = [file.host_id for file in files if file.loaded_bytes]
    return next((hosts[name] for name in (*pending, *loaded)), None)


def _roomiest(files: Sequence[ModelFile]) -> Host:
    return max((file.host for file in files), key=lambda host: host.free_bytes)


# -- sending and waiting -------------------------------------------------------------------------------
def _do(
    kind: Command.Kind,
    hosts: Sequence[Host],
    *,
    model: Model | None = None,
    arguments: dict[str, Any] | None = None,
) -> Done:
    ids = [_open(kind, host, model, arguments or {}) for host in hosts]
    found = _wait(ids, seconds=settings.MODEL_COMMAND_SECONDS)
    failed = [command for command in found if command.state == Command.State.FAILED]
    if failed:
        raise _error(failed[0])
    return Done(
        {command.host_id: command.answer for command in found if command.state not in OPEN},
        waiting=sorted(command.host_id for command in found if command.state in OPEN),
    )


def _open(kind: Command.Kind, host: Host, model: Model | None, arguments: dict[str, Any]) -> UUID:
    """The id of such a command; an open one is joined."""
    about = {"kind": kind, "host": host, "arguments": arguments} | (
        {"type": model.type, "name": model.name} if model else {}
    )
    with transaction.atomic():
        same = Command.objects.filter(**about, state__in=OPEN).values_list("pk", flat=True).first()
        pk = same or Command.objects.create(**about).pk
        if not same:
            audit.record(f"model.{kind}", on=model or host, note=f"on {host.name}")
        transaction.on_commit(lambda: tickets.ticket(host.name))
    return pk


def _wait(ids: Sequence[UUID], *, seconds: float) -> list[Command]:
    """All of them, finished unless that takes longer. The connection is returned between polls."""
    end, pause = time.monotonic() + seconds, FIRST_LOOK
    while True:
        found = list(Command.objects.filter(pk__in=ids))
        if all(command.state not in OPEN for command in found) or time.monotonic() + pause > end:
            return found
        if not connection.in_atomic_block:
            connection.close()
        time.sleep(pause)
        pause = min(pause * 1.5, LONGEST_LOOK)


def _error(command: Command) -> ApiError:
    match command.answer.get("code"):
        case "not_found":
            return NotFound(command.error)
        case "unavailable":
            return Unavailable(command.error, retry_after=10)
    return Unprocessable(command.error)
