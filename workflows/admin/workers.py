"""GPU workers in the admin: their models and current work, and whether they may claim executions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from unfold.views import ChangeList

from accounts import audit
from accounts.audited_console import apply_to_each
from comfyserve.console import html
from comfyserve.console.confirm_actions import Answer, ask_first
from comfyserve.console.filters import FieldDropdown
from comfyserve.console.pages import Facts, Offer, PageAdmin, Section, Table
from models_registry import commands
from workflows.fleet import overview, registry
from workflows.models import Execution, Worker

from . import links

Rows = QuerySet[Worker]


class CleanupForm(forms.Form):
    max_age_hours = forms.IntegerField(
        min_value=1, max_value=24, initial=1, label="Unused for this many hours"
    )


class WorkerList(ChangeList):  # type: ignore[misc]
    """Attach the loaded models of each row on the page, in two queries."""

    result_list: Any

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        loaded = overview.models_loaded()
        for row in self.result_list:
            row.loaded = loaded.get(row.name)


@admin.register(Worker)
class WorkerAdmin(PageAdmin):
    list_display = [
        "name",
        "status",
        "wanted",
        "host",
        "comfyui_version",
        "memory",
        "in_memory",
        "runs",
        "heard",
    ]
    list_filter = [("desired_state", FieldDropdown)]
    search_fields = ["name", "host", "url"]
    search_help_text = "Name, host or address"
    ordering = ["name"]
    actions = ["pause", "drain", "resume", "cleanup"]
    refresh_seconds = 3

    def get_queryset(self, request: HttpRequest) -> Rows:
        return super().get_queryset(request).annotate(age=overview.AGE)  # type: ignore[no-any-return]

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:  # noqa: ARG002
        return WorkerList

    # -- columns ------------------------------------------------------------------------------------------
    @admin.display(description="State")
    def status(self, row: Any) -> Any:
        return html.badge(overview.row(row).status)

    @admin.display(description="Requested")
    def wanted(self, row: Worker) -> Any:
        return (
            html.NONE
            if row.desired_state == Worker.DesiredState.WORK
            else html.badge(row.desired_state, "warn")
        )

    @admin.display(description="Free memory")
    def memory(self, row: Worker) -> str:
        return "; ".join(f"{html.size(each.get('vram_free'))}" for each in row.devices) or html.NONE

    @admin.display(description="Models in memory")
    def in_memory(self, row: Any) -> str:
        if row.loaded is None:
            return "not known"
        return ", ".join(row.loaded) or html.NONE

    @admin.display(description="Runs")
    def runs(self, row: Worker) -> Any:
        return _running(row)

    @admin.display(description="Heard of")
    def heard(self, row: Any) -> Any:
        return f"{html.duration(row.age.total_seconds())} ago"

    # -- detail page --------------------------------------------------------------------------------------
    def headline(self, row: Any) -> Any:
        return format_html(
            "{} {}",
            self.status(row),
            "" if row.desired_state == Worker.DesiredState.WORK else self.wanted(row),
        )

    def offers(self, row: Worker) -> list[Offer]:
        found: list[Offer] = []
        if row.desired_state != Worker.DesiredState.WORK:
            found.append(("resume", "Resume", False))
        if row.desired_state != Worker.DesiredState.PAUSE:
            found.append(("pause", "Pause", False))
        if row.desired_state != Worker.DesiredState.DRAIN:
            found.append(("drain", "Drain", True))
        return [*found, ("cleanup", "Clean up models", False)]

    def sections(self, request: HttpRequest, row: Any) -> Iterable[Section]:  # noqa: ARG002
        loaded = overview.models_loaded().get(row.name)
        yield Facts(
            "Current work",
            [
                ("Runs", _running(row)),
                ("Staged", _execution(row.staged)),
                ("Models in memory", "not known" if loaded is None else ", ".join(loaded)),
                ("Requested state", row.desired_state),
                ("Since", html.ago(row.desired_state_at)),
            ],
        )
        yield Facts(
            "Properties",
            [
                ("Host", row.host),
                ("Process", row.pid),
                ("ComfyUI", overview.without_password(row.url)),
                ("ComfyUI version", row.comfyui_version),
                ("ComfyUI responds", "yes" if row.reachable else "no"),
                ("Started", html.ago(row.started_at)),
                ("Heard of", f"{html.duration(row.age.total_seconds())} ago"),
                ("RAM free", _part(row.ram_free, row.ram_total)),
            ],
        )
        yield Table("Devices", ["Name", "Type", "Memory free"], [_device(each) for each in row.devices])
        yield Table(
            "GPUs of its host", ["Name", "Load", "Memory used"], [_gpu(each) for each in row.gpus],
            empty="None reported by NVIDIA's driver.",
        )  # fmt: skip
        yield _latest(row)
        yield Table(
            "Audit log", ["When", "Who", "What"],
            [(html.ago(each.at), each.who or "system", each.action) for each in audit.of(row)],
            empty="Nothing yet.",
        )  # fmt: skip

    # -- actions ------------------------------------------------------------------------------------------
    @ask_first(
        title="Pause",
        text="It claims no more work. The running execution continues, the staged one is requeued. This "
        "lasts until you resume it, also when the worker is restarted.",
        button="Yes, pause",
    )
    def pause(self, request: HttpRequest, rows: Rows, answer: Answer) -> None:  # noqa: ARG002
        self._ask(request, rows, Worker.DesiredState.PAUSE, "paused")

    @ask_first(
        title="Drain",
        text="As pause; and its state is 'drained' as soon as it holds nothing: then you can stop its "
        "process or its host without loss. Its process does not end by itself. Resumed, it takes work again.",
        button="Yes, drain",
        danger=True,
    )
    def drain(self, request: HttpRequest, rows: Rows, answer: Answer) -> None:  # noqa: ARG002
        self._ask(request, rows, Worker.DesiredState.DRAIN, "draining")

    @ask_first(title="Resume", text="It claims work again.", button="Yes, resume")
    def resume(self, request: HttpRequest, rows: Rows, answer: Answer) -> None:  # noqa: ARG002
        self._ask(request, rows, Worker.DesiredState.WORK, "resumed")

    @ask_first(
        title="Clean up models",
        text="Unloads models neither used nor loaded for that long. A running execution is not affected.",
        button="Yes, clean up",
        form=CleanupForm,
    )
    def cleanup(self, request: HttpRequest, rows: Rows, answer: Answer) -> None:
        def clean(row: Worker) -> None:
            done = commands.cleanup(max_age_hours=answer["max_age_hours"], worker=row.name)
            commands.require_done(done)

        apply_to_each(self, request, rows, clean, done="cleaned up", recorded=True)

    def _ask(self, request: HttpRequest, rows: Rows, state: Worker.DesiredState, done: str) -> None:
        apply_to_each(
            self,
            request,
            rows,
            lambda row: registry.set_desired_state(name=row.name, state=state),
            done=done,
            recorded=True,
        )


def _running(row: Worker) -> Any:
    if row.running is None:
        return html.NONE
    return format_html("{} {}", _execution(row.running), html.ago(row.running_since))


def _execution(pk: Any) -> Any:
    if pk is None:
        return html.NONE
    return links.to_execution(pk)


def _part(free: int | None, total: int | None) -> str:
    return f"{html.size(free)} of {html.size(total)}"


def _device(device: dict[str, Any]) -> tuple[Any, ...]:
    memory = _part(device.get("vram_free"), device.get("vram_total"))
    return device.get("name", html.NONE), device.get("type", html.NONE), memory


def _gpu(gpu: dict[str, Any]) -> tuple[Any, ...]:
    load = gpu.get("usage_percent")
    used = _part(gpu.get("memory_used"), gpu.get("memory_total"))
    return gpu.get("name", html.NONE), html.NONE if load is None else f"{load} %", used


def _latest(row: Worker) -> Table:
    """What it is running; its earlier executions are in the list of executions, by worker."""
    held = Execution.objects.filter(worker=row.name, claim_token__isnull=False).select_related("user")
    return Table(
        "Its executions",
        ["Execution", "User", "State", "Since"],
        [
            (_execution(each.pk), each.user, html.badge(each.status), html.ago(each.claimed_at))
            for each in held
        ],
    )
