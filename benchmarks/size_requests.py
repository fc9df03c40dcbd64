"""The requests that `benchmarks.size` makes, on the database of this process."""

from __future__ import annotations

import io
import itertools
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import uuid4

from django.db.models.functions import Now
from django.test import Client
from PIL import Image

from accounts import cleaning as account_cleaning
from accounts import storage_use
from accounts.models import User
from files import backend
from files import cleaning as file_cleaning
from files.models import File
from health.dashboard import figures
from health.dashboard.day import day
from script.harness import graphs
from tests.factories import Api
from workflows import cleaning
from workflows.models import Execution
from workflows.queue import claims
from workflows.worker import sweeps

READS = (
    "/workflows/",
    "/workflows/?limit=100",
    "/workflows/?offset=1000",
    "/workflows/?cursor={cursor}",
    "/workflows/?status=completed",
    "/workflows/?status=completed&offset=1000",
    "/workflows/?status=failed",  # none
    "/workflows/?status=running",  # none
    "/workflows/?app=asker/app1",
    "/workflows/?app=asker/app1&status=cancelled",  # none
    "/workflows/?app=asker/none",
    "/workflows/{id}",
    "/workflows/{id}/status",
    "/workflows/{id}/logs",
    "/workflows/batches",
    "/workflows/batches/{batch}",
    "/files/",
    "/files/?kind=upload",
    "/files/?offset=1000",
    "/files/{file}/info",
    "/apps/",
    "/comfyui/history",
    "/comfyui/jobs",
    "/comfyui/queue",
    "/api/v2/jobs",
    "/api/v2/jobs?metadata[project]=p0",
    "/api/v2/jobs?metadata[site]=s",
    "/api/v2/jobs?metadata[team]=t1",
    "/api/v2/jobs?metadata[half]=old",
    "/api/v2/jobs?metadata[team]=none",
    "/v1/videos",
    "/v1/videos?order=asc",
    "/auth/me",
    "/workflows/nodes",
    "/workflows/{id}/webhooks",
    "/workflows/batches?offset=100",
    "/files/?created_after=2020-01-01T00:00:00Z",
    "/files/?kind=output&created_before=2020-01-01T00:00:00Z",  # none
    "/destinations/",
    "/models/",
    "/health/detailed",
    "/metrics/",
    "/comfyui/history/{id}",
    "/comfyui/v2/userdata",
    "/comfyui/prompt",
    "/v1/models",
    "/workflows/batches/{batch}/contact-sheet",
    "/files/{file}",
    "/files/{file}/thumbnail",
    "/api/v2/jobs/{id}",
    "/api/v2/jobs/{id}/workflow",
    "/api/v2/assets/{file}",
    "/auth/keys",
)
EXECUTIONS, DELIVERIES = "/admin/workflows/execution/", "/admin/workflows/delivery/"
FILES, DASHBOARD = "/admin/files/file/", "/admin/dashboard/live/"
CONSOLE = (
    DASHBOARD,
    EXECUTIONS,
    f"{EXECUTIONS}?p=20",
    f"{EXECUTIONS}?status__exact=failed",
    f"{EXECUTIONS}?status__exact=running",  # none
    f"{EXECUTIONS}?priority__exact=high",  # none
    f"{EXECUTIONS}?worker=gpu-1",
    f"{EXECUTIONS}?worker=gpu-4",  # none
    f"{EXECUTIONS}?cause=node",
    f"{EXECUTIONS}?cause=timeout",  # none
    f"{EXECUTIONS}?cause=other",  # none
    f"{EXECUTIONS}?model=model1",
    f"{EXECUTIONS}?model=model20",  # none
    f"{EXECUTIONS}?user=asker",
    f"{EXECUTIONS}?q=asker",
    f"{EXECUTIONS}?q=raised",
    f"{EXECUTIONS}?q=nothing+like+this",
    f"{EXECUTIONS}?q={{id}}",
    f"{EXECUTIONS}{{id}}/change/",
    FILES,
    f"{FILES}?kind__exact=upload",
    f"{FILES}?q=asker@example.com",
    f"{FILES}?q={{file}}",
    DELIVERIES,
    f"{DELIVERIES}?state__exact=failed",  # none
    f"{DELIVERIES}?q=asker@example.com",
    f"{DELIVERIES}?q=example.com:443",
    f"{DELIVERIES}?q=msg_none",
    "/admin/",
    "/admin/accounts/user/",
    "/admin/accounts/user/?q=asker",
    "/admin/accounts/user/{user}/change/",
    "/admin/accounts/auditentry/",
    "/admin/accounts/apikey/",
    "/admin/apps_catalog/app/",
    "/admin/models_registry/model/",
    "/admin/workflows/worker/",
    "/admin/workflows/outputdelivery/",
    f"{EXECUTIONS}?user=asker&status__exact=failed",  # none
    f"{EXECUTIONS}?user=asker&worker=gpu-1",
    f"{EXECUTIONS}?worker=gpu-1&status__exact=cancelled",
    f"{EXECUTIONS}?model=model1&status__exact=failed",
    f"{EXECUTIONS}?model=model1&cause=node",
    f"{EXECUTIONS}?model=model1&worker=gpu-2",  # none
    f"{EXECUTIONS}?model=model21",  # older ones
    f"{EXECUTIONS}?user=asker&cause=node",  # none
    f"{EXECUTIONS}?worker=gpu-1&q=asker",
    f"{EXECUTIONS}?worker=gpu-1&q=raised",  # none
    f"{EXECUTIONS}live/?id={{id}}",
    f"{EXECUTIONS}{{id}}/live/",
    f"{EXECUTIONS}{{id}}/log/?after=0",
    "/admin/bytes/{file}/thumbnail/",
    f"{FILES}{{file}}/change/",
    "/admin/workflows/worker/gpu-1/change/",
    "/admin/apps_catalog/appversion/",
    "/admin/files/destination/",
    "/admin/workflows/noderule/",
)
STAFF = ("/workers/",)
NEWEST = 1_000  # of the requesting user's executions: what the requests are about


Do = Callable[[], object]


class Requests:
    """Each by its name: a function that prepares it and returns what is to be measured."""

    def __init__(self) -> None:
        asker = User.objects.get(username="asker")
        operator = User.objects.create_superuser("operator", "operator@example.com", "correct horse battery")
        self.api, self.staff, self.console = Api.of(asker), Api.of(operator), Client()
        self.console.force_login(operator)
        newest = Execution.objects.filter(user=asker).order_by("-created_at")[:NEWEST]
        self.ended = [str(row.id) for row in newest]
        _store_a_picture_for(self.ended)
        self.shown = itertools.cycle(self.ended[: NEWEST // 2])  # the others may be deleted
        self.batch, self.user = str(newest[0].batch_id), asker.pk
        self.cursor = self.api.get("/workflows/?limit=100&offset=900").headers["X-Next-Cursor"]
        self.in_rounds: dict[str, Callable[[], Do]] = {
            **{path: partial(self._read, self.api.get, path) for path in READS},
            **{path: partial(self._read, self.staff.get, path) for path in STAFF},
            **{path: partial(self._read, self.console.get, path) for path in CONSOLE},
            "dashboard, first in a process": self._first_dashboard,
            "POST /workflows/execute": lambda: self._submit,
            "POST /workflows/{id}/cancel": self._cancel,
            "POST /workflows/{id}/retry": self._retry,
            "DELETE /workflows/{id}": lambda: partial(self._delete, f"/workflows/{self.ended.pop()}"),
            "DELETE /files/{file}": lambda: partial(self._delete, f"/files/{_file_of(self.ended.pop())}"),
            "cleanup: ten expired files": self._clean_files,
            "cleanup: nothing else is old": lambda: _clean_the_rest,
            **{f"sweep: {name}": partial(lambda do: do, do) for name, _, do in sweeps.DUTIES},
            "GPU worker: claim": lambda: partial(claims.take, worker="gpu-9"),
            "GPU worker: nothing to adopt": lambda: partial(claims.adopt, worker="gpu-9", held=set()),
            "storage use, not cached": lambda: self._count_storage,
        }
        self.at_the_end: dict[str, Callable[[], Do]] = {
            "cleanup: a hundred executions": lambda: partial(next, cleaning.clean()),
        }

    def milliseconds(self, name: str) -> float:
        do = (self.in_rounds | self.at_the_end)[name]()
        began = time.perf_counter()
        do()
        return 1000 * (time.perf_counter() - began)

    def _read(self, get: Callable[[str], Any], path: str) -> Do:
        id_ = next(self.shown)
        path = path.format(id=id_, file=_file_of(id_), batch=self.batch, user=self.user, cursor=self.cursor)
        return lambda: _expect(get(path))

    def _first_dashboard(self) -> Do:
        day.forget()
        for cache in (figures.current, figures.cached_storage):
            cache.forget()
        return self._read(self.console.get, DASHBOARD)

    def _submit(self) -> str:
        body = {"workflow": graphs.colour(2)}
        return str(_expect(self.api.post("/workflows/execute", body)).json()["execution_id"])

    def _cancel(self) -> Do:
        return partial(self._post, f"/workflows/{self._submit()}/cancel")

    def _retry(self) -> Do:
        """Of one that was cancelled."""
        path = f"/workflows/{self._submit()}"
        self._post(f"{path}/cancel")
        return partial(self._post, f"{path}/retry")

    def _post(self, path: str) -> None:
        _expect(self.api.post(path))

    def _delete(self, path: str) -> None:
        _expect(self.api.delete(path))

    def _count_storage(self) -> None:
        storage_use.forget()
        storage_use.left(self.user)

    def _clean_files(self) -> Do:
        ids = [_file_of(self.ended.pop()) for _ in range(10)]
        File.objects.filter(id__in=ids).update(expires_at=Now())
        return lambda: list(file_cleaning.expired())


def _store_a_picture_for(ids: list[str]) -> None:
    """As the output of each, which has no bytes until then."""
    key, content = f"outputs/00/{uuid4().hex}", io.BytesIO()
    Image.new("RGB", (512, 512), "teal").save(content, "PNG")
    backend.put(key, content.getvalue(), content_type="image/png")
    File.objects.filter(id__in=[_file_of(id_) for id_ in ids]).update(key=key)


def _clean_the_rest() -> None:
    for clean in (account_cleaning.clean, file_cleaning.expired, file_cleaning.converted):
        list(clean())


def _file_of(execution_id: str) -> str:
    return f"file_{execution_id.replace('-', '')}"


def _expect(response: Any) -> Any:
    assert response.status_code in (200, 286), (response.status_code, response.content)
    return response
