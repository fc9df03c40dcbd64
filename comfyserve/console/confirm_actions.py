"""Actions with a confirmation page. One object or many: both use the changelist's actions.

    @ask_first(title="Cancel", text="They stop immediately.", button="Cancel them", danger=True)
    def cancel(self, request, rows, answer):
        apply_to_each(self, request, rows, lambda row: commands.cancel(execution=row), done="cancelled")

The page of one object posts its id to the changelist as if it had been ticked there: `button_of`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme

MAX_OBJECTS = 500  # objects per action
SHOWN = 20  # objects named in the question

Answer = dict[str, Any]
Action = Callable[[Any, HttpRequest, QuerySet[Any], Answer], None]


@dataclass(frozen=True)
class Question:
    title: str
    text: str
    button: str
    danger: bool
    form: type[forms.Form] | None


def ask_first(
    *,
    title: str,
    text: str,
    button: str,
    permission: str = "operate",
    danger: bool = False,
    form: type[forms.Form] | None = None,
) -> Callable[[Action], Callable[..., Any]]:
    """Turn a function into an admin action with confirmation; it receives the cleaned `form` data as its last
    argument."""
    question = Question(title, text, button, danger, form)

    def decorator(do: Action) -> Callable[..., Any]:
        @wraps(do)
        def action(self: Any, request: HttpRequest, rows: QuerySet[Any]) -> HttpResponseBase | None:
            chosen = list(rows[: MAX_OBJECTS + 1])
            if len(chosen) > MAX_OBJECTS:
                self.message_user(request, f"At most {MAX_OBJECTS} at once; choose fewer", messages.ERROR)
                return None
            filled = form(request.POST if "confirmed" in request.POST else None) if form else None
            if "confirmed" in request.POST and (filled is None or filled.is_valid()):
                ids = [row.pk for row in chosen]
                do(self, request, rows.model._default_manager.filter(pk__in=ids), _cleaned(filled))
                return HttpResponseRedirect(_back(request))
            return _page(self, request, chosen, question, do.__name__, filled)

        return admin.action(action, description=title, permissions=[permission])

    return decorator


def _cleaned(form: forms.Form | None) -> Answer:
    return dict(form.cleaned_data) if form else {}


def _back(request: HttpRequest) -> str:
    """Where the operator came from; only URLs of this service."""
    wanted = request.POST.get("next", "")
    here = url_has_allowed_host_and_scheme(
        wanted, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    )
    return wanted if here else request.get_full_path()


def _page(
    owner: Any, request: HttpRequest, chosen: list[Model], question: Question, name: str, form: Any
) -> TemplateResponse:
    context = {
        **owner.admin_site.each_context(request),
        "opts": owner.opts,
        "title": question.title,
        "question": question,
        "form": form,
        "objects": chosen[:SHOWN],
        "more": max(0, len(chosen) - SHOWN),
        "number": len(chosen),
        "ids": [row.pk for row in chosen],
        "checkbox_name": ACTION_CHECKBOX_NAME,
        "action": name,
        # Without the filters: the selected objects may no longer match them.
        "target": request.path,
        "next": _back(request),
    }
    return TemplateResponse(request, "console/ask.html", context)


@dataclass(frozen=True)
class Button:
    """For the page of one object; see `console/button.html`."""

    label: str
    action: str
    pk: Any
    target: str
    danger: bool = False
    checkbox_name: str = ACTION_CHECKBOX_NAME


def button_of(owner: Any, row: Model, action: str, label: str, *, danger: bool = False) -> Button:
    target = reverse(f"admin:{owner.opts.app_label}_{owner.opts.model_name}_changelist")
    return Button(label=label, action=action, pk=row.pk, target=target, danger=danger)
