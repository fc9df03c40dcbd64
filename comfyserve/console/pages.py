"""The detail page of one object: facts, tables and buttons, described in Python and rendered by one
template."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import Model
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path

from . import html
from .admin import ReadOnlyAdmin
from .confirm_actions import Button, button_of


@dataclass(frozen=True)
class Facts:
    """Names and values; those without a value are omitted."""

    title: str
    entries: list[tuple[str, Any]]
    kind: ClassVar[str] = "facts"

    @property
    def shown(self) -> list[tuple[str, Any]]:
        return html.pairs(self.entries)


@dataclass(frozen=True)
class Table:
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    empty: str = "None."
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Text:
    """A long text, to read or copy."""

    title: str
    text: str
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Pictures:
    title: str
    pictures: list[Any] = field(default_factory=list)
    kind: ClassVar[str] = "pictures"


Section = Facts | Table | Text | Pictures
Offer = tuple[str, str, bool]  # (changelist action, label, whether it is destructive)


class PageAdmin(ReadOnlyAdmin):
    """Read-only rows with a detail page each. A subclass defines its content; with `refresh_seconds` it
    refreshes itself."""

    refresh_seconds = 0

    def sections(self, request: HttpRequest, row: Any) -> Iterable[Section]:
        raise NotImplementedError

    def offers(self, row: Any) -> list[Offer]:  # noqa: ARG002
        """Actions that are valid in the object's current state; shown to users with permission."""
        return []

    def headline(self, row: Any) -> Any:  # noqa: ARG002
        """Shown before the buttons: usually a badge."""
        return ""

    def get_urls(self) -> list[URLPattern]:
        name = f"{self.opts.app_label}_{self.opts.model_name}_live"
        live = path("<path:object_id>/live/", self.admin_site.admin_view(self.live_view), name=name)
        return [live, *super().get_urls()]

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None  # noqa: ARG002
    ) -> HttpResponse:  # fmt: skip
        row = self._found(request, object_id)
        context = {
            **self.admin_site.each_context(request),
            "title": f"{self.opts.verbose_name.capitalize()} {row}",
            "opts": self.opts,
            "refresh_seconds": self.refresh_seconds,
            "live": request.path.removesuffix("change/") + "live/",
            **self._context(request, row),
        }
        return TemplateResponse(request, "console/page.html", context)

    def live_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """The part that refreshes itself: everything but the frame."""
        context = self._context(request, self._found(request, object_id))
        return TemplateResponse(request, "console/page_live.html", context)

    def _context(self, request: HttpRequest, row: Model) -> dict[str, Any]:
        return {
            "sections": list(self.sections(request, row)),
            "buttons": self._buttons(request, row),
            "headline": self.headline(row),
            "here": self._page_of(request),
        }

    @staticmethod
    def _page_of(request: HttpRequest) -> str:
        """The URL of the full page, also when its live part is requested: actions redirect there."""
        path_ = request.path
        return path_.removesuffix("live/") + "change/" if path_.endswith("/live/") else path_

    def _buttons(self, request: HttpRequest, row: Model) -> list[Button]:
        permitted = self.get_actions(request)
        return [
            button_of(self, row, action, label, danger=danger)
            for action, label, danger in self.offers(row)
            if action in permitted
        ]

    def _found(self, request: HttpRequest, object_id: str) -> Model:
        if not self.has_view_permission(request):
            raise PermissionDenied
        row: Model | None = self.get_object(request, unquote(object_id))
        if row is None:
            raise Http404
        return row
