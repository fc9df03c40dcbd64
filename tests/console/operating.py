"""What an operator finds in the console, and sends to it: for the tests of its pages."""

from __future__ import annotations

from typing import Any

from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.test import Client

from accounts import api_keys, audit
from accounts.audit_models import AuditEntry
from accounts.models import User
from files.models import Destination, File, Kind
from models_registry.models import Download, Host, Model, ModelFile
from tests.console.test_executions import EVIL, submitted
from tests.health.test_workers import make_worker
from workflows.models import Delivery, DeliveryAttempt, Output, OutputDelivery, Worker

WORKERS, MODELS, FILES = "/admin/workflows/worker/", "/admin/models_registry/model/", "/admin/files/file/"
DELIVERIES, USERS, KEYS = "/admin/workflows/delivery/", "/admin/accounts/user/", "/admin/accounts/apikey/"
AUDIT = "/admin/accounts/auditentry/"
DESTINATIONS, SENT_FILES = "/admin/files/destination/", "/admin/workflows/outputdelivery/"
PAGES = [
    WORKERS, MODELS, FILES, DELIVERIES, USERS, KEYS, AUDIT, DESTINATIONS, SENT_FILES,
    "/admin/workflows/execution/",
]  # fmt: skip


def make_file(user: User, *, filename: str = "a.png") -> File:
    key = default_storage.save("uploads/test", ContentFile(b"x"))
    return File.objects.create(
        user=user, kind=Kind.UPLOAD, filename=filename, content_type="image/png", size=1, sha256="0", key=key,
        thumbnail_key="thumbnails/x.webp",
    )  # fmt: skip


def make_model(name: str = "tiny.safetensors", *, host: str = "gpu", **file: Any) -> Model:
    place, _ = Host.objects.get_or_create(name=host, defaults={"bridge": True})
    model = Model.objects.create(type="checkpoint", name=name)
    about = {"folder": "checkpoints", "path": f"/models/{name}", "size": 5 * 1024**2, "changed": 0.0, **file}
    ModelFile.objects.create(model=model, host=place, **about)
    return model


def make_delivery(user: User, *, state: str = "failed", **more: Any) -> Delivery:
    execution = submitted(user)
    about = {"event": "workflow.completed", "url": "https://example.com/hook", "host": "example.com", **more}
    delivery = Delivery.objects.create(execution=execution, user=user, state=state, **about)
    DeliveryAttempt.objects.create(delivery=delivery, status_code=500, duration_ms=3, answer=EVIL)
    return delivery


def make_file_delivery(user: User, *, state: str = "failed", name: str = "x", **more: Any) -> OutputDelivery:
    """Of a file to a bucket of this user."""
    destination, _ = Destination.objects.get_or_create(
        user=user, name=name[:63], defaults={"endpoint": "https://s3.example.com", "secret": "hidden-secret"}
    )
    execution = submitted(user)
    output = Output.objects.create(execution=execution, node_id="1", group="images", position=0)
    about = {"destination": destination, "url": "https://s3.example.com/b/x", **more}
    return OutputDelivery.objects.create(
        output=output, execution=execution, user=user, filename=name, state=state, **about
    )


def one_of_each(user: User, *, name: str = "x") -> dict[str, Any]:
    """An object for each list, by the list's address."""
    make_worker(name, gpus=[{"name": name, "usage_percent": 3}], devices=[{"name": name, "vram_free": 1}])
    model = make_model(name, host=name, loaded_bytes=7)
    Download.objects.create(model=model, host_id=name, url="https://example.com", error=name)
    delivery = make_delivery(user, error=name, host=name[:50])
    sent = make_file_delivery(user, name=name, error=name)
    key, _ = api_keys.create(user=user, name=name)
    audit.record("x", on=user, changes={"name": (name, name)}, note=name)
    return {
        WORKERS: Worker.objects.get(name=name).pk,
        MODELS: model.pk,
        FILES: make_file(user, filename=name).pk,
        DELIVERIES: delivery.pk,
        DESTINATIONS: sent.destination_id,
        SENT_FILES: sent.pk,
        USERS: user.pk,
        KEYS: key.pk,
        AUDIT: AuditEntry.objects.get(action="x", note=name).pk,
    }


def page_of(address: str, pk: Any) -> str:
    from django.contrib.admin.utils import quote

    return f"{address}{quote(pk)}/change/"


def act(client: Client, address: str, action: str, *pks: Any, **answer: str) -> Any:
    """What the browser sends after the question was answered with yes."""
    chosen = {"action": action, "index": "0", "_selected_action": [str(pk) for pk in pks]}
    return client.post(address, {**chosen, "confirmed": "yes", **answer}, follow=True)


def last(action: str) -> AuditEntry:
    return AuditEntry.objects.filter(action=action).latest("id")
