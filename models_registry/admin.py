"""Models in the console: where they are stored and loaded; load, unload, download."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from unfold.views import ChangeList

from accounts.audited_console import apply_to_each
from accounts.models import User
from comfyserve.api.errors import ApiError
from comfyserve.console import html
from comfyserve.console.confirm_actions import Answer, ask_first
from comfyserve.console.pages import Facts, Offer, PageAdmin, Section, Table

from . import commands, downloads, kinds, loading, queries
from .models import Download, Model, ModelFile
from .queries import ACTIVE

Rows = QuerySet[Model]
LATEST = 10  # downloads shown on a model's page


Command = Callable[..., commands.Done]


class WhereForm(forms.Form):
    worker = forms.ChoiceField(required=False, label="On which worker")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        names = [(host.name, host.name) for host in queries.live_hosts()]
        field: Any = self.fields["worker"]
        field.choices = [("", "any worker that has it"), *names]


class DownloadForm(WhereForm):
    name = forms.CharField(
        max_length=500, label="File name", help_text="With subfolders, such as sdxl/base.safetensors"
    )
    model_type = forms.ChoiceField(label="Type")
    download_url = forms.URLField(label="Address", max_length=2000, assume_scheme="https")
    sha256 = forms.CharField(required=False, max_length=64, label="SHA-256, if known")
    description = forms.CharField(required=False, max_length=1000, label="Description")
    field_order = ["download_url", "name", "model_type", "worker", "sha256", "description"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        types = [*kinds.FOLDERS, *kinds.OTHERS]
        field: Any = self.fields["model_type"]
        field.choices = [(each, each) for each in types]
        worker: Any = self.fields["worker"]
        worker.choices = [("", "all workers that lack it"), *worker.choices[1:]]


class ModelList(ChangeList):  # type: ignore[misc]
    """Attaches files and active downloads to each row of the page, in three queries."""

    result_list: Any

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        rows = list(self.result_list)
        entries = queries.entries_of(rows)
        for row in rows:
            row.entry = entries[row.pk]
        self.result_list = rows


@admin.register(Model)
class ModelAdmin(PageAdmin):
    list_display = ["name", "type", "how", "loaded_on", "size", "where", "used"]
    list_filter = ["type"]
    search_fields = ["name", "type"]
    search_help_text = "Name or type"
    ordering = ["type", "name"]
    actions = ["load", "unload", "cancel_download"]
    list_before_template = "models_registry/on_their_way.html"
    refresh_seconds = 3

    def get_queryset(self, request: HttpRequest) -> Rows:
        """Models that exist on a host or are being downloaded; not those known only from old executions."""
        there = Q(pk__in=ModelFile.objects.values("model")) | Q(pk__in=Download.objects.values("model"))
        return super().get_queryset(request).filter(there)  # type: ignore[no-any-return]

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:  # noqa: ARG002
        return ModelList

    # -- columns ------------------------------------------------------------------------------------------
    @admin.display(description="State")
    def how(self, row: Any) -> Any:
        entry: queries.Entry = row.entry
        if entry.downloads:
            return html.progress(100 * (entry.download_progress or 0), label=f"Download of {row.name}")
        if entry.loaded_bytes:
            return html.badge("loaded", "good")
        return html.badge(
            "on disk" if entry.is_available else "missing", "plain" if entry.is_available else "warn"
        )

    @admin.display(description="In memory of")
    def loaded_on(self, row: Any) -> str:
        found = [file for file in row.entry.files if file["live"] and file["loaded_bytes"]]
        return (
            ", ".join(f"{file['host_id']} ({html.size(file['loaded_bytes'])})" for file in found) or html.NONE
        )

    @admin.display(description="Size")
    def size(self, row: Any) -> str:
        return html.size(max((file["size"] for file in row.entry.files), default=None))

    @admin.display(description="On disk of")
    def where(self, row: Any) -> str:
        names = [f"{file['host_id']}{'' if file['live'] else ' (silent)'}" for file in row.entry.files]
        return ", ".join(names) or html.NONE

    @admin.display(description="Last used")
    def used(self, row: Model) -> Any:
        return html.ago(row.last_used)

    # -- pages --------------------------------------------------------------------------------------------
    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("download/", view(self.download_view), name="models_registry_model_download"),
            path("on-their-way/", view(self.on_their_way_view), name="models_registry_model_on_their_way"),
            *super().get_urls(),
        ]

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        more = {"may_download": self.has_operate_permission(request), "on_their_way": on_their_way()}
        return super().changelist_view(request, {**(extra_context or {}), **more})

    def on_their_way_view(self, request: HttpRequest) -> HttpResponse:
        """The part of the list that refreshes itself."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        context = {"on_their_way": on_their_way()}
        return TemplateResponse(request, "models_registry/on_their_way_live.html", context)

    def download_view(self, request: HttpRequest) -> HttpResponse:
        """A form for name and source, which also serves as the confirmation."""
        if not self.has_operate_permission(request):
            raise PermissionDenied
        form = DownloadForm(request.POST or None)
        if request.method == "POST" and form.is_valid() and self._start_download(request, form):
            return HttpResponseRedirect(reverse("admin:models_registry_model_changelist"))
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": "Download a model",
            "form": form,
        }
        return TemplateResponse(request, "models_registry/download.html", context)

    def _start_download(self, request: HttpRequest, form: DownloadForm) -> bool:
        given = {**form.cleaned_data, "worker": form.cleaned_data["worker"] or None}
        user = request.user
        assert isinstance(user, User)  # noqa: S101  (staff has logged in)
        try:
            model, hosts = downloads.start(user=user, **given)
        except ApiError as exc:
            form.add_error(None, exc.message)
            for detail in exc.details:
                field = {"model_name": "name"}.get(detail.field or "", detail.field)
                form.add_error(field if field in form.fields else None, detail.message)
            return False
        self.message_user(
            request, f"{model.name} is being downloaded to {', '.join(hosts)}", messages.SUCCESS
        )
        return True

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        row = super().get_object(request, object_id, from_field)
        if row is not None:
            row.entry = queries.entry_of(row)
        return row

    def headline(self, row: Any) -> Any:
        return self.how(row)

    def offers(self, row: Any) -> list[Offer]:
        entry: queries.Entry = row.entry
        found: list[Offer] = []
        if entry.is_available and row.type in loading.LOADERS:
            found.append(("load", "Load", False))
        if any(file["live"] and (file["loaded_bytes"] or file["ram_bytes"]) for file in entry.files):
            found.append(("unload", "Unload", False))
        if entry.downloads:
            found.append(("cancel_download", "Cancel download", True))
        return found

    def sections(self, request: HttpRequest, row: Any) -> Iterable[Section]:  # noqa: ARG002
        entry: queries.Entry = row.entry
        about = entry.files[0] if entry.files else {}
        yield Facts(
            "Model",
            [
                ("Name", row.name),
                ("Type", row.type),
                ("Description", row.description),
                ("Last used", html.ago(row.last_used)),
                ("SHA-256", about.get("sha256")),
                *[(str(key), str(value)[:500]) for key, value in (about.get("metadata") or {}).items()],
            ],
        )
        yield Table(
            "On workers",
            ["Worker", "In memory", "In RAM only", "Size", "File"],
            [_on_worker(file) for file in entry.files],
        )
        latest = Download.objects.filter(model=row).order_by("-created_at")[:LATEST]
        yield Table(
            "Downloads, latest first",
            ["To", "State", "Progress", "When", "Error"],
            [_download(each) for each in latest],
        )

    # -- actions ------------------------------------------------------------------------------------------
    @ask_first(
        title="Load",
        text="Loads the model into memory without running a workflow, after the running execution.",
        button="Yes, load",
        form=WhereForm,
    )
    def load(self, request: HttpRequest, rows: Rows, answer: Answer) -> None:
        self._order(request, rows, answer, commands.load, "loaded")

    @ask_first(
        title="Unload",
        text="Removes the model from memory. A running execution is not affected; later ones load it again.",
        button="Yes, unload",
        form=WhereForm,
    )
    def unload(self, request: HttpRequest, rows: Rows, answer: Answer) -> None:
        self._order(request, rows, answer, commands.unload, "unloaded")

    def _order(
        self,
        request: HttpRequest,
        rows: Rows,
        answer: Answer,
        command: Command,
        done: str,
    ) -> None:
        def order(row: Model) -> None:
            commands.require_done(command(model=row, worker=answer["worker"] or None))

        apply_to_each(self, request, rows, order, done=done, recorded=True)

    @ask_first(
        title="Cancel download",
        text="The partial downloads on all workers are deleted.",
        button="Yes, cancel it",
        danger=True,
    )
    def cancel_download(self, request: HttpRequest, rows: Rows, answer: Answer) -> None:  # noqa: ARG002
        def cancel(row: Model) -> None:
            downloads.cancel(name=row.name, model_type=row.type)

        apply_to_each(self, request, rows, cancel, done="cancelled", recorded=True)


def on_their_way() -> list[dict[str, Any]]:
    """Waiting and running downloads, with their progress bars."""
    rows = Download.objects.filter(state__in=ACTIVE).select_related("model").order_by("created_at")[:20]
    return [
        {"name": str(row.model), "host": row.host_id, "bar": _bar(row), "done": html.size(row.bytes_done)}
        for row in rows
    ]


def _bar(row: Download) -> Any:
    return html.progress(
        100 * queries.progress_of(row), label=f"Download of {row.model.name} to {row.host_id}"
    )


def _download(row: Download) -> tuple[Any, ...]:
    far = f"{html.size(row.bytes_done)} of {html.size(row.bytes_total)}"
    return row.host_id, html.badge(row.state), far, html.ago(row.created_at), row.error or html.NONE


def _on_worker(file: dict[str, Any]) -> tuple[Any, ...]:
    if not file["live"]:
        return file["host_id"], html.badge("silent"), html.NONE, html.size(file["size"]), file["path"]
    loaded = html.size(file["loaded_bytes"]) if file["loaded_bytes"] else html.NONE
    held = html.size(file["ram_bytes"]) if file["ram_bytes"] else html.NONE
    return file["host_id"], loaded, held, html.size(file["size"]), file["path"]
