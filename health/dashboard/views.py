"""The dashboard as a page, and the part of it that refreshes itself."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import path
from django.utils import timezone

from comfyserve.api.errors import Unavailable
from comfyserve.console import html
from files import console as bytes_
from workflows.admin.executions import first_pictures
from workflows.admin.filters import words_of

from . import charts, figures
from .day import total
from .figures import Figures, Machine

FULL = 90  # percent of disk use that triggers a warning
BEHIND = timedelta(minutes=10).total_seconds()  # waiting time of the oldest execution that triggers a warning


def may_see(request: HttpRequest) -> bool:
    return bool(request.user.has_perm("workflows.view_execution"))


def callback(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Called by unfold for the admin's start page."""
    return {**context, "title": "Dashboard", **(_shown() if may_see(request) else {})}


def live(request: HttpRequest) -> HttpResponse:
    if not may_see(request):
        raise PermissionDenied
    return TemplateResponse(request, "dashboard/live.html", _shown())


def _shown() -> dict[str, Any]:
    try:
        found = figures.current()
    except Unavailable as exc:
        return {"dashboard": {"unavailable": exc.message}}
    return {"dashboard": _words(found)}


def _words(found: Figures) -> dict[str, Any]:
    whole = total(found.hours)
    oldest = max((waiting.oldest_seconds for waiting in found.now.waiting.values()), default=0.0)
    waited = f"the oldest for {html.duration(oldest)}" if oldest else ""
    used = 100 * (1 - found.disk_free / found.disk_total)
    return {
        "at": f"{timezone.now():%H:%M:%S} UTC",
        "warnings": list(_warnings(found, oldest=oldest, disk=used)),
        "tiles": [
            ("Running", html.number(found.now.running), _workers(sum(found.now.workers.values()))),
            ("Waiting", html.number(found.waiting), waited),
            *_tiles(whole),
        ],
        "ended": charts.ended(found.hours),
        "waits": charts.waits(found.hours),
        "machines": [_machine(machine) for machine in found.machines],
        "queue": [
            (html.badge(name), html.number(waiting.number), html.duration(waiting.oldest_seconds or None))
            for name, waiting in found.queue
        ],
        "users": found.users,
        "causes": sorted(
            ((cause, words_of(cause), number) for cause, number in whole.causes.items()),
            key=lambda entry: -entry[2],
        ),
        "latest": _latest(found),
        "storage": f"{'about ' if found.storage.is_estimated else ''}{html.size(found.storage.size)}",
        "files": f"{'about ' if found.storage.is_estimated else ''}{html.number(found.storage.files)}",
        "disk": html.progress(used, label="Disk"),
        "disk_free": html.size(found.disk_free),
        "host": [
            ("CPU of this host", html.progress(found.now.host["cpu_usage_percent"], label="CPU")),
            ("Memory of this host", html.progress(found.now.host["memory_usage_percent"], label="Memory")),
        ],
    }


def _latest(found: Figures) -> list[dict[str, Any]]:
    pictures = first_pictures([row.pk for row in found.latest])
    return [
        {
            "row": row,
            "state": html.badge(row.status),
            "picture": bytes_.thumbnail_of(pictures[row.pk]) if row.pk in pictures else None,
            "ago": html.ago(row.created_at),
        }
        for row in found.latest
    ]


def _workers(number: int) -> str:
    return "on 1 worker" if number == 1 else f"on {number} workers"


def _tiles(whole: Any) -> list[tuple[str, str, str]]:
    ended = sum(whole.ended.values())
    failed = whole.ended.get("failed", 0)
    share = f"{100 * failed / ended:.1f} % of ended executions" if ended else ""
    return [
        ("Completed", html.number(whole.ended.get("completed", 0)), "in 24 hours"),
        ("Failed", html.number(failed), share),
        ("Cancelled", html.number(whole.ended.get("cancelled", 0)), "in 24 hours"),
        ("Mean wait", html.duration(whole.mean_wait), "in 24 hours"),
    ]


def _warnings(found: Figures, *, oldest: float, disk: float) -> Any:
    """Warnings, the worst first."""
    able = sum(found.now.workers.get(state, 0) for state in ("active", "paused"))
    if not able:
        yield "No GPU worker is running" + (
            f", and {found.waiting:,} executions wait" if found.waiting else ""
        )
    for machine in found.machines:
        if machine.row.status in ("silent", "faulty", "hung", "unreachable"):
            yield f"Worker {machine.row.name} is {machine.row.status}"
    if able and oldest > BEHIND:
        yield f"The oldest execution has waited for {html.duration(oldest)}"
    if disk > FULL:
        yield f"The disk is {disk:.0f} % full"


def _machine(machine: Machine) -> dict[str, Any]:
    worker = machine.row.worker
    return {
        "name": machine.row.name,
        "host": worker.host,
        "status": html.badge(machine.row.status),
        "running": worker.running if not machine.row.silent else None,
        "progress": None
        if machine.percentage is None
        else html.progress(machine.percentage, label=f"Progress on {machine.row.name}"),
        "gpus": [_gpu(gpu) for gpu in machine.gpus],
        "device": ", ".join(str(device.get("name", "")) for device in worker.devices[:2]),
        "ram": _of(worker.ram_total, worker.ram_free),
        "models": machine.models,
    }


def _gpu(gpu: dict[str, Any]) -> dict[str, Any]:
    name = gpu.get("name") or f"GPU {gpu['index']}"
    load = gpu.get("usage_percent")
    total_, used = gpu.get("memory_total"), gpu.get("memory_used")
    return {
        "name": name,
        "load": html.progress(load, label=f"Load of {name}") if load is not None else html.NONE,
        "memory": f"{html.size(used)} of {html.size(total_)}" if total_ else html.NONE,
    }


def _of(total_: int | None, free: int | None) -> str:
    return f"{html.size(total_ - free)} of {html.size(total_)}" if total_ and free is not None else ""


urlpatterns = [path("live/", admin.site.admin_view(live), name="console-dashboard")]
