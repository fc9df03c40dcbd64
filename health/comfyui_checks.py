"""The state of the ComfyUIs: by their workers' heartbeats, and directly if this host reaches them."""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import requests
from django.conf import settings

from comfyserve.db import connections
from workflows.fleet import overview, registry
from workflows.models import Worker

from .checks import Condition, Service
from .probing import NoAnswer, Probe

ASK_DIRECTLY = 32  # ComfyUIs; more are checked by heartbeats alone
DIRECT_SECONDS = 1.0
HUNG = "It does not stop an ended workflow and accepts no work: restart this ComfyUI"
NO_WORKER = "No GPU worker has reported"


@dataclass
class _Direct:
    """One ComfyUI, queried from here. One that never responded may be on another network."""

    probe: Probe[float]
    has_answered: bool = False


_direct: dict[str, _Direct] = {}


def check() -> list[Service]:
    """`comfyui` for all together, then `comfyui:<worker>` for each."""
    with connections.step():
        rows = [row for row in overview.rows() if not overview.has_left(row)]
    asked = _ask(rows[:ASK_DIRECTLY])
    each = [_one(row, *asked.get(row.name, (None, None))) for row in rows]
    return [_together(each), *each]


def _ask(rows: list[overview.Row]) -> dict[str, tuple[float | None, str | None]]:
    """(milliseconds, error) of each that is worth querying, concurrently."""
    began = time.monotonic()
    begun: dict[str, tuple[_Direct, Future[float]]] = {}
    for row in rows:
        if row.name not in _direct or _direct[row.name].probe.name != row.worker.url:
            _direct[row.name] = _Direct(_probe(row.worker.url))
        direct = _direct[row.name]
        begun[row.name] = (direct, direct.probe.begin())
    return {name: _answer(direct, future, began) for name, (direct, future) in begun.items()}


def _probe(url: str) -> Probe[float]:
    return Probe(url, lambda: _milliseconds(url), limit=DIRECT_SECONDS)


def _milliseconds(url: str) -> float:
    began = time.perf_counter()
    with requests.Session() as session:
        session.trust_env = False
        session.headers.update(settings.COMFYUI_HEADERS)
        answer = session.get(f"{url}/prompt", timeout=(0.5, DIRECT_SECONDS))
        answer.raise_for_status()
    return round((time.perf_counter() - began) * 1000, 1)


def _answer(direct: _Direct, future: Future[float], began: float) -> tuple[float | None, str | None]:
    try:
        took = direct.probe.ask(begun=future, since=began)
    except NoAnswer as exc:
        return None, str(exc) if direct.has_answered else None
    except requests.RequestException:
        return None, "No response" if direct.has_answered else None
    direct.has_answered = True
    return took, None


def _one(row: overview.Row, took: float | None, error: str | None) -> Service:
    name = f"comfyui:{row.name}"
    if row.silent:
        said = f"Its worker has been silent for {row.silent_seconds:.0f} s"
        return Service(name, "unhealthy", took, said)
    if not row.worker.reachable:
        return Service(name, "unhealthy", took, "Its worker cannot reach it")
    if error is not None:
        return Service(name, "unhealthy", None, error)
    if row.worker.state == Worker.State.FAULTY:
        return Service(
            name, "degraded", took, "Several executions failed in a row; its worker is backing off"
        )
    if row.worker.state == Worker.State.HUNG:
        return Service(name, "degraded", took, HUNG)
    if row.worker.desired_state != Worker.DesiredState.WORK:
        said = "Paused" if row.worker.desired_state == Worker.DesiredState.PAUSE else "Drained"
        return Service(name, "degraded", took, f"{said} by an operator")
    if not row.worker.boot:
        return Service(name, "healthy", took, "Without our bridge: users' files are not isolated there")
    return Service(name, "healthy", took)


def _together(each: list[Service]) -> Service:
    """Healthy if all are, unhealthy if none can serve."""
    if not each:
        return Service("comfyui", "unhealthy", None, NO_WORKER)
    well = [one for one in each if one.status == "healthy"]
    times = [one.response_time_ms for one in well if one.response_time_ms is not None]
    took = min(times) if times else None
    if len(well) == len(each):
        return Service("comfyui", "healthy", took)
    status: Condition = "degraded" if well or any(one.status == "degraded" for one in each) else "unhealthy"
    return Service("comfyui", status, took, f"{len(each) - len(well)} of {len(each)} not well")


def devices() -> list[dict[str, Any]]:
    """The GPUs of live workers, without duplicates."""
    return overview.gpus(Worker.objects.filter(name__in=registry.alive().values("name")))
