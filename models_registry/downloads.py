"""Starting, following and cancelling downloads: the API of the views. The workers do the transfers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet, Sum
from django.db.models.functions import Now

from accounts import audit
from accounts.models import User
from comfyserve.api.errors import Conflict, Detail, Forbidden, LimitExceeded, NotFound, ValidationFailed
from comfyserve.outbound import client

from . import kinds, queries, tickets
from .models import Download, Host, Model, ModelFile
from .queries import ACTIVE
from .reading import NO_HASH

LONGEST_PART = 200  # characters of a file or folder name; file systems take 255 bytes
UNSAFE = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|]')


def start(
    *,
    user: User,
    name: str,
    model_type: str,
    download_url: str,
    sha256: str = "",
    description: str = "",
    worker: str | None = None,
) -> tuple[Model, list[str]]:
    """Download the file to `worker`, or to every worker that lacks it; returns the model and the hosts.

    An active download with this name and URL is joined. Where another host has the model, the file must be
    the same. Raises ValidationFailed; Conflict if no host lacks it, if another file is being downloaded under
    this name, or if the file differs from that of another host or cannot be compared; LimitExceeded if the
    model storage quota is used up; Unavailable without a worker.
    """
    type_ = _checked(name, model_type, download_url, sha256)
    hosts = queries.some_hosts(worker)
    having = set(
        ModelFile.objects.filter(host__in=hosts, model__type=type_, model__name=name).values_list(
            "host_id", flat=True
        )
    )
    lacking = [host for host in hosts if host.name not in having]
    if not lacking:
        raise Conflict(f"The {type_} {name} is already on the worker")
    _check_room(lacking)
    sha256 = _same_as_elsewhere(name, type_, user=user, sha256=sha256.lower())
    about = {"user": user, "url": download_url, "sha256": sha256}
    with transaction.atomic():
        model, _ = Model.objects.get_or_create(type=type_, name=name)
        if description:
            Model.objects.filter(pk=model.pk).update(description=description)
        # An active download is left unchanged: the constraint settles concurrent requests.
        Download.objects.bulk_create(
            [Download(model=model, host=host, **about) for host in lacking], ignore_conflicts=True
        )
        _refuse_other_source(model, lacking, url=download_url, sha256=sha256)
        note = f"from {download_url} to {', '.join(host.name for host in lacking)}"
        audit.record("model.download", on=model, actor=user, note=note)
        for host in lacking:
            transaction.on_commit(lambda name=host.name: tickets.ticket(name))  # type: ignore[misc]
    return model, [host.name for host in lacking]


def _same_as_elsewhere(name: str, type_: str, *, user: User, sha256: str) -> str:
    """The SHA-256 that the file must have: what other hosts have under this name, else the given one.

    Otherwise a workflow's output would depend on the host, and a user could put other bytes under a name that
    others trust. If no checksum is known yet, only operators may proceed.
    """
    rows = ModelFile.objects.filter(model__type=type_, model__name=name)
    sums = set(rows.values_list("sha256", flat=True))
    known = sums - {"", NO_HASH}
    if sums and not known and not is_operator(user):
        raise Conflict(
            f"Another worker has {name}, and its SHA-256 is not known yet, so the files cannot be compared; "
            "try again later, or ask an operator"
        )
    if len(known) > 1 and sha256 not in known:
        raise Conflict(f"The workers have different files named {name}; give its SHA-256 to choose one")
    if known and sha256 and sha256 not in known:
        raise Conflict(f"Another worker has a different file named {name}; choose another name")
    return sha256 or next(iter(known), "")


def _refuse_other_source(model: Model, hosts: Sequence[Host], *, url: str, sha256: str) -> None:
    """Conflict if an active download with this name fetches something else."""
    other = ~Q(url=url) | (~Q(sha256=sha256) & ~Q(sha256="") if sha256 else Q(pk__in=[]))
    if Download.objects.filter(other, model=model, host__in=hosts, state__in=ACTIVE).exists():
        raise Conflict(
            f"Another file is being downloaded as {model.name}; cancel that download, or choose another name"
        )


# -- validation ----------------------------------------------------------------------------------------
def _checked(name: str, model_type: str, url: str, sha256: str) -> str:
    """The type; ValidationFailed with all errors."""
    mistakes = _mistakes_in_name(name)
    type_ = kinds.type_of(model_type)
    try:
        kinds.checked(model_type, more=queries.reported_folders())
    except ValidationFailed as exc:
        mistakes += exc.details
    try:
        client.check(url)
    except client.Refused as exc:
        mistakes.append(Detail("INVALID_VALUE", exc.message, "download_url"))
    if sha256 and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        mistakes.append(Detail("INVALID_VALUE", "A SHA-256 has 64 hexadecimal digits", "sha256"))
    if mistakes:
        raise ValidationFailed(mistakes)
    return type_


def _mistakes_in_name(name: str) -> list[Detail]:
    parts = name.split("/")
    wrong = None
    if any(part in ("", ".", "..") or part.startswith(".") for part in parts):
        wrong = "The name must be a file name, perhaps with subfolders, none of which begins with a dot"
    elif UNSAFE.search(name) or any(part != part.strip() for part in parts):
        wrong = "The name has characters that not every file system takes"
    elif len(name) > 500 or any(len(part.encode()) > LONGEST_PART for part in parts):
        wrong = f"The name is too long: {LONGEST_PART} bytes for each part, 500 characters in all"
    elif not name.lower().endswith(kinds.EXTENSIONS):
        wrong = f"A model's name ends in one of {', '.join(kinds.EXTENSIONS)}"
    elif name.lower().endswith(kinds.PICKLES) and not settings.MODEL_ALLOW_PICKLES:
        wrong = (
            "Loading a file of this format runs code that is in it, so they are refused here; "
            f"use one of {', '.join(kinds.SAFE)}"
        )
    return [Detail("INVALID_VALUE", wrong, "model_name")] if wrong else []


def _check_room(hosts: Sequence[Host]) -> None:
    most = settings.MODEL_STORAGE_BYTES
    if not most:
        return
    for host in hosts:
        used = ModelFile.objects.filter(host=host).aggregate(used=Sum("size"))["used"] or 0
        if used >= most:
            raise LimitExceeded(
                f"The storage quota for models on worker {host.name} is used up: {used} of {most} bytes",
                details=[Detail("QUOTA_EXCEEDED", "Quota 'model_storage' is used up")],
            )


# -- permissions --------------------------------------------------------------------------------------
def is_operator(user: Any) -> bool:
    """Who manages models in the console, but not read-only staff."""
    return bool(user.is_staff and user.has_perm("models_registry.change_model"))


def may_use_tokens(download: Download) -> bool:
    """Whether the operator's tokens may be sent for it: they give access to private and gated files."""
    if settings.MODEL_TOKENS == "authenticated":
        return True
    return download.user is not None and download.user.is_active and is_operator(download.user)


# -- progress, cancellation ----------------------------------------------------------------------------
def latest(*, name: str, model_type: str | None) -> tuple[Model, list[Download], bool]:
    """(the model, its latest download on each host, whether it is available). NotFound; ValidationFailed."""
    model = _known(name=name, model_type=model_type)
    rows = Download.objects.filter(model=model).order_by("host_id", "-created_at").distinct("host_id")
    return model, list(rows), queries.entry_of(model).is_available


def cancel(*, name: str, model_type: str | None, only_of: User | None = None) -> Model:
    """Cancel the download on all hosts; the workers delete partial files. NotFound if none is active.

    `only_of`: Forbidden if another user requested it.
    """
    model = _known(name=name, model_type=model_type)
    under_way = Download.objects.filter(model=model, state__in=ACTIVE)
    with transaction.atomic():
        if only_of is not None and under_way.exclude(user=only_of).exists():
            raise Forbidden("Another user requested this download; only they or an operator may cancel it")
        if not under_way.update(state=Download.State.CANCELLED, ended_at=Now()):
            raise NotFound(f"There is no active download of {model.name}")
        audit.record("model.cancel_download", on=model)
    return model


def _known(*, name: str, model_type: str | None) -> Model:
    """As queries.model_of, but also a model whose download has failed."""
    try:
        return queries.model_of(name=name, model_type=model_type)
    except NotFound:
        of_type: dict[str, Any] = {"type": kinds.type_of(model_type)} if model_type else {}
        found = Model.objects.filter(name=name, downloads__isnull=False, **of_type).first()
        if found is None:
            raise
        return found


def under_way(host: str) -> QuerySet[Download]:
    """Pending downloads of this host, oldest first."""
    return Download.objects.filter(Q(state__in=ACTIVE), host_id=host).order_by("created_at")
