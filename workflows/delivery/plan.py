"""`deliver_to`: validated at submission, stored with the graph, and turned into rows when the run ends.

An address that is given for one run is a secret: it is encrypted, and erased when it was used, or when the
run ends without outputs. It is shown without its query.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from django.conf import settings
from django.db import transaction

from accounts.models import User
from comfyserve import secret_box
from comfyserve.api.errors import ValidationFailed
from comfyserve.near_names import did_you_mean, near
from comfyserve.outbound import client, errors
from files import converted, destinations
from files.models import Destination
from workflows import notify
from workflows.models import Output, OutputDelivery, WebhookEvent
from workflows.webhooks import outbox

PATH = "output.deliver_to"
HOSTS_LOOKED_UP = 3  # in DNS, of the hosts of a request


# -- at submission -------------------------------------------------------------------------------------
def kept(output: Mapping[str, Any], *, user: User, many: bool = False) -> dict[str, Any]:
    """`output` of a request as it is stored with the graph. Raises ValidationFailed by field.

    May ask DNS: not inside a transaction. `many`: of a batch, for which one address is not enough.
    """
    wanted = output.get("deliver_to")
    if not wanted:
        return {name: value for name, value in output.items() if name != "deliver_to"}
    if many and "urls" in wanted:
        raise ValidationFailed.of(f"{PATH}.urls", "A batch is delivered to a destination, not to URLs")
    place = checked(wanted, user=user, path=PATH)
    if place.destination is not None:
        return {**output, "deliver_to": {"destination": place.destination.pk}}
    return {**output, "deliver_to": {"urls": secret_box.encrypt(json.dumps(place.urls))}}


@dataclass(frozen=True)
class Place:
    """The target of files: a saved bucket, or a URL for each file in order."""

    destination: Destination | None = None
    urls: Sequence[str] = ()


def checked(wanted: Mapping[str, Any], *, user: User, path: str) -> Place:
    """The validated form of `deliver_to`. Raises ValidationFailed by field below `path`. May query DNS."""
    if "destination" in wanted:
        return Place(destination=_destination(wanted["destination"], user, path))
    hosts: set[str] = set()
    for number, url in enumerate(wanted["urls"]):
        try:
            host = client.parse(url).host
            known = host in hosts or len(hosts) >= HOSTS_LOOKED_UP
            client.check(url, https_only=settings.WEBHOOK_HTTPS_ONLY, resolve=not known)
            hosts.add(host)
        except errors.Refused as exc:
            raise ValidationFailed.of(f"{path}.urls.{number}", str(exc)) from exc
    return Place(urls=wanted["urls"])


def _destination(name: str, user: User, path: str) -> Destination:
    names = {each.name: each for each in destinations.of_user(user)}
    if name not in names:
        hint = did_you_mean(near(name, list(names)))
        raise ValidationFailed.of(f"{path}.destination", f"You have no destination '{name[:63]}'{hint}")
    return names[name]


def again(output: Mapping[str, Any]) -> dict[str, Any]:
    """The same for a retry: without URLs, which are valid for one run only."""
    if "urls" in output.get("deliver_to", {}) or not output.get("deliver_to", True):
        return {name: value for name, value in output.items() if name != "deliver_to"}
    return dict(output)


# -- at the end ----------------------------------------------------------------------------------------
def begin(execution_id: UUID, *, user_id: int, output: Mapping[str, Any], made: Sequence[Output]) -> None:
    """Create the deliveries, in the transaction that completes the execution."""
    plan = output.get("deliver_to") or {}
    files = [each for each in made if each.file is not None and not each.temporary]
    files = files or [each for each in made if each.file is not None]
    if not plan or not files:
        return
    names = _names(files)
    if "destination" in plan:
        destination = Destination.objects.filter(id=plan["destination"]).first()
        new = [
            _to_bucket(each, name, destination, execution_id) for each, name in zip(files, names, strict=True)
        ]
    else:
        urls: list[str | None] = list(_urls(plan))
        urls += [None] * (len(files) - len(urls))
        new = [_to_address(each, name, url) for each, name, url in zip(files, names, urls, strict=False)]
    for delivery in new:
        delivery.execution_id, delivery.user_id = execution_id, user_id
    OutputDelivery.objects.bulk_create(new)
    if all(delivery.state == OutputDelivery.State.FAILED for delivery in new):
        outbox.record([execution_id], event=WebhookEvent.DELIVERED)
    transaction.on_commit(notify.wake_webhooks)


def _urls(plan: Mapping[str, Any]) -> list[str]:
    try:
        found: list[str] = json.loads(secret_box.decrypt(plan["urls"]))
    except (secret_box.Unreadable, KeyError):
        return []
    return found


def _to_bucket(
    output: Output, name: str, destination: Destination | None, execution_id: UUID
) -> OutputDelivery:
    if destination is None:
        failed = OutputDelivery.State.FAILED
        return OutputDelivery(output=output, filename=name, state=failed, error="The destination was deleted")
    url = destinations.plain_url(destination, f"{execution_id}/{name}")
    return OutputDelivery(output=output, filename=name, destination=destination, url=url)


def _to_address(output: Output, name: str, url: str | None) -> OutputDelivery:
    if url is None:
        failed = OutputDelivery.State.FAILED
        return OutputDelivery(
            output=output, filename=name, state=failed, error="No URL was given for this file"
        )
    return OutputDelivery(
        output=output, filename=name, secret_url=secret_box.encrypt(url), url=without_secrets(url)
    )


def without_secrets(url: str) -> str:
    """The URL without its query, which holds the signature, and without credentials."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=host, query="", fragment="").geturl()


def _names(files: Sequence[Output]) -> list[str]:
    """Of each the path below the execution's: its subfolder and file name; with a number where two agree."""
    found: list[str] = []
    for each in files:
        assert each.file is not None  # noqa: S101  (the caller looked)
        made = each.converted
        filename = converted.filename_of(each.file, made.content_type) if made else each.file.filename
        path = PurePosixPath(each.subfolder.replace("\\", "/").strip("/"), filename)
        name, number = str(path), 1
        while name in found:
            number += 1
            name = str(path.with_name(f"{path.stem}_{number}{path.suffix}"))
        found.append(name)
    return found
