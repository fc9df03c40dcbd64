"""Real answers of every endpoint have the keys and types that openapi.yaml describes.

Answers are rendered by functions, for speed, and described by serializers; this is what ties them. A new
endpoint fails `test_every_endpoint_is_compared` until it is here.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.utils import timezone
from PIL import Image

from comfyserve.api.docs import schema
from files import storing
from files.models import Destination, File, Kind
from models_registry.models import Host, Model, ModelFile
from script.harness import graphs
from tests.api.described import differences
from tests.factories import PASSWORD, Api, make_user
from workflows.models import Delivery, FailureCause, Level, Output, Status, Worker
from workflows.queue import claims, state_machine
from workflows.queue.execution_log import Line

# What is no JSON, or needs a worker's process: tests/models_registry and tests/workflows have these.
NOT_JSON = {
    "get /files/{file_id}", "get /files/{file_id}/thumbnail", "get /workflows/events",
    "get /workflows/{execution_id}/events", "get /workflows/batches/{batch_id}/contact-sheet",
    "delete /auth/keys/{key_id}",
}  # fmt: skip
NEEDS_MAIL = {"post /auth/password/reset", "post /auth/password/reset/confirm"}  # tests/accounts has these
# tests/workflows/test_delivery.py compares these.
NEEDS_BUCKET = {
    "post /destinations/", "patch /destinations/{destination}", "post /workflows/{execution_id}/redeliver",
    "post /workflows/batches/{batch_id}/redeliver",
}  # fmt: skip
OF_A_WORKER = {
    "post /models/{model_name}/download", "delete /models/{model_name}/download",
    "get /models/{model_name}/download-progress", "post /models/{model_name}/load",
    "post /models/{model_name}/unload", "post /models/cleanup",
}  # fmt: skip


def png() -> bytes:
    content = BytesIO()
    Image.new("RGB", (8, 8)).save(content, "PNG")
    return content.getvalue()


class Case:
    """Alice, who has one of everything, and an operator."""

    def __init__(self) -> None:
        self.user = make_user("alice", password=PASSWORD)
        self.api, self.staff = Api.of(self.user), Api.of(make_user("olga", is_staff=True, is_superuser=True))

    def submitted(self, **more: Any) -> str:
        answer = self.api.post("/workflows/execute", {"workflow": graphs.colour(1), **more})
        return str(answer.json()["execution_id"])

    def ended(self) -> str:
        """The id of a failed execution with outputs, warnings, lines of log and a webhook."""
        execution_id = self.submitted(webhook_url="https://1.1.1.1/hook", metadata={"a": 1})
        claim = claims.take(worker="w")
        assert claim is not None
        assert state_machine.begin(claim, total_steps=1)
        outcome = state_machine.Outcome(
            Status.FAILED,
            error="no",
            error_details={"type": "x"},
            failure_cause=FailureCause.NODE,
            outputs=[
                Output(group="images", node_id="1", file=self.picture()),
                Output(group="texts", node_id="2", text="hello"),
            ],
            lines=[Line("no", Level.ERROR)],
            warnings=["left out"],
        )
        assert state_machine.finish(claim, outcome)
        return execution_id

    def picture(self) -> File:
        return storing.store(user_id=self.user.id, kind=Kind.OUTPUT, filename="a.png", chunks=[png()])

    def batch(self) -> str:
        sent = {"workflow": graphs.colour(1), "grid": {"1.color": [1, 2]}}
        return str(self.api.post("/workflows/batch", sent).json()["batch_id"])

    def failed_batch(self) -> str:
        batch_id = self.batch()
        while claim := claims.take(worker="w"):
            assert state_machine.begin(claim, total_steps=1)
            assert state_machine.finish(claim, state_machine.Outcome(Status.FAILED, error="no"))
        return batch_id

    def app(self) -> str:
        answer = self.api.post("/apps/", {"name": "colours", "workflow": graphs.colour(1)})
        assert answer.status_code == 201, answer.content
        return "colours"

    def worker(self) -> str:
        Worker.objects.create(name="w", host="h", pid=1, url="http://gpu:8188", heartbeat_at=timezone.now())
        return "w"

    def destination(self) -> str:
        row = Destination.objects.create(
            user=self.user, name="mine", endpoint="https://s3.example.com", region="r", bucket="b",
            access_key="k", secret="s",
        )  # fmt: skip
        return row.name

    def model(self) -> str:
        host = Host.objects.create(name="h")
        model = Model.objects.create(name="a.safetensors", type="checkpoint")
        ModelFile.objects.create(
            host=host, model=model, folder="checkpoints", path="/models/a.safetensors", size=1, changed=0.0
        )
        return model.name


def of_execution(method: str, suffix: str) -> Callable[[Case], Any]:
    return lambda case: case.api(method, f"/workflows/{case.ended()}{suffix}")


def upload(case: Case) -> Any:
    return case.api.post("/files/upload", data={"file": SimpleUploadedFile("a.png", png())})


def refresh(case: Case) -> Any:
    logged_in = case.api.post("/auth/login", {"email": "alice@example.com", "password": PASSWORD}).json()
    return case.api.post("/auth/refresh", {"refresh_token": logged_in["refresh_token"]})


def redeliver(case: Case) -> Any:
    execution_id = case.ended()
    delivery = Delivery.objects.filter(execution_id=execution_id).latest("created_at")
    Delivery.objects.filter(id=delivery.id).update(state=Delivery.State.DELIVERED)
    return case.api.post(f"/workflows/{execution_id}/webhooks/{delivery.id}/redeliver")


NEW_USER = {"username": "nora", "email": "nora@example.com", "password": PASSWORD}
CHANGED = {"current_password": PASSWORD, "new_password": "a long new one 77"}
CASES: dict[str, Callable[[Case], Any]] = {
    "post /auth/register": lambda case: Api().post("/auth/register", NEW_USER),
    "post /auth/login": lambda case: Api().post(
        "/auth/login", {"email": "alice@example.com", "password": PASSWORD}
    ),
    "post /auth/refresh": refresh,
    "get /auth/me": lambda case: case.api.get("/auth/me"),
    "post /auth/logout": lambda case: case.api.post("/auth/logout"),
    "get /auth/keys": lambda case: [
        case.api.post("/auth/keys", {"name": "a"}), case.api.get("/auth/keys")
    ][-1],
    "post /auth/keys": lambda case: case.api.post("/auth/keys", {"name": "a"}),
    "post /auth/password": lambda case: case.api.post("/auth/password", CHANGED),
    "get /auth/webhook-secret": lambda case: case.api.get("/auth/webhook-secret"),
    "post /auth/webhook-secret/rotate": lambda case: case.api.post("/auth/webhook-secret/rotate", {}),
    "post /workflows/execute": lambda case: case.api.post(
        "/workflows/execute", {"workflow": graphs.colour(1)}
    ),
    "post /workflows/validate": lambda case: case.api.post(
        "/workflows/validate", {"workflow": graphs.colour(1)}
    ),
    "get /workflows/{execution_id}": of_execution("get", "?include=workflow"),
    "delete /workflows/{execution_id}": of_execution("delete", ""),
    "get /workflows/": lambda case: [case.ended(), case.api.get("/workflows/")][-1],
    "post /workflows/{execution_id}/cancel": lambda case: case.api.post(
        f"/workflows/{case.submitted()}/cancel"
    ),
    "get /workflows/{execution_id}/status": of_execution("get", "/status"),
    "get /workflows/{execution_id}/logs": of_execution("get", "/logs"),
    "post /workflows/{execution_id}/retry": of_execution("post", "/retry"),
    "get /workflows/{execution_id}/webhooks": of_execution("get", "/webhooks"),
    "post /workflows/{execution_id}/webhooks/{delivery_id}/redeliver": redeliver,
    "get /workflows/nodes": lambda case: [case.worker(), case.api.get("/workflows/nodes")][-1],
    "post /workflows/batch": lambda case: case.api.post(
        "/workflows/batch", {"workflow": graphs.colour(1), "grid": {"1.color": [1, 2]}}
    ),
    "get /workflows/batches": lambda case: [case.batch(), case.api.get("/workflows/batches")][-1],
    "get /workflows/batches/{batch_id}": lambda case: case.api.get(f"/workflows/batches/{case.batch()}"),
    "post /workflows/batches/{batch_id}/cancel": lambda case: case.api.post(
        f"/workflows/batches/{case.batch()}/cancel"
    ),
    "post /workflows/batches/{batch_id}/retry": lambda case: case.api.post(
        f"/workflows/batches/{case.failed_batch()}/retry"
    ),
    "get /apps/": lambda case: [case.app(), case.api.get("/apps/")][-1],
    "post /apps/": lambda case: case.api.post("/apps/", {"name": "b", "workflow": graphs.colour(1)}),
    "get /apps/{app}": lambda case: case.api.get(f"/apps/{case.app()}"),
    "patch /apps/{app}": lambda case: case.api("patch", f"/apps/{case.app()}", {"title": "Colours"}),
    "delete /apps/{app}": lambda case: case.api.delete(f"/apps/{case.app()}"),
    "post /apps/{app}/run": lambda case: case.api.post(f"/apps/{case.app()}/run", {}),
    "post /apps/{app}/batch": lambda case: case.api.post(
        f"/apps/{case.app()}/batch", {"inputs": [{}, {}]}
    ),
    "get /apps/{app}/schema": lambda case: case.api.get(f"/apps/{case.app()}/schema"),
    "get /apps/{app}/versions": lambda case: case.api.get(f"/apps/{case.app()}/versions"),
    "get /models/": lambda case: [case.model(), case.api.get("/models/")][-1],
    "get /models/{model_name}": lambda case: case.api.get(f"/models/{case.model()}"),
    "post /files/upload": upload,
    "get /files/": lambda case: [upload(case), case.api.get("/files/")][-1],
    "get /files/{file_id}/info": lambda case: case.api.get(
        f"/files/{upload(case).json()['file_id']}/info"
    ),
    "delete /files/{file_id}": lambda case: case.api.delete(f"/files/{upload(case).json()['file_id']}"),
    "get /destinations/": lambda case: [case.destination(), case.api.get("/destinations/")][-1],
    "get /destinations/{destination}": lambda case: case.api.get(f"/destinations/{case.destination()}"),
    "delete /destinations/{destination}": lambda case: case.api.delete(
        f"/destinations/{case.destination()}"
    ),
    "get /health/": lambda case: Api().get("/health/"),
    "get /health/detailed": lambda case: [case.worker(), case.staff.get("/health/detailed")][-1],
    "get /health/readiness": lambda case: Api().get("/health/readiness"),
    "get /health/liveness": lambda case: Api().get("/health/liveness"),
    "get /metrics/": lambda case: [case.ended(), Api().get("/metrics/")][-1],
    "get /workers/": lambda case: [case.worker(), case.staff.get("/workers/")][-1],
    "post /workers/{worker_name}/drain": lambda case: case.staff.post(f"/workers/{case.worker()}/drain"),
    "post /workers/{worker_name}/pause": lambda case: case.staff.post(f"/workers/{case.worker()}/pause"),
    "post /workers/{worker_name}/resume": lambda case: case.staff.post(f"/workers/{case.worker()}/resume"),
}  # fmt: skip


@pytest.fixture
def case(db: None) -> Case:
    return Case()


@pytest.mark.parametrize("operation", CASES)
def test_the_answer_is_as_described(case: Case, operation: str) -> None:
    answer = CASES[operation](case)
    assert answer.status_code < 300, answer.content
    method, path = operation.split(" ")
    assert differences(method, path, answer) == []


def test_every_endpoint_is_compared() -> None:
    described = {
        f"{method} {path}"
        for path, methods in schema()["paths"].items()
        for method in methods
        if method in ("get", "post", "put", "patch", "delete")
    }
    assert described == set(CASES) | NOT_JSON | OF_A_WORKER | NEEDS_MAIL | NEEDS_BUCKET
