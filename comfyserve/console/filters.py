"""Changelist filters as native form fields, which work with keyboards and screen readers."""

from __future__ import annotations

from typing import Any

from django import forms
from unfold.contrib.filters.admin import ChoicesDropdownFilter, DropdownFilter
from unfold.widgets import UnfoldAdminSelectWidget


class PlainForm(forms.Form):
    def __init__(
        self, name: str, label: str, choices: Any, multiple: bool = False, *args: Any, **kwargs: Any
    ) -> None:
        assert not multiple  # noqa: S101  (ours are not)
        super().__init__(*args, **kwargs)
        self.fields[name] = forms.ChoiceField(
            label=label.strip(), required=False, choices=choices, widget=UnfoldAdminSelectWidget
        )


class Dropdown(DropdownFilter):  # type: ignore[misc]
    form_class = PlainForm


class FieldDropdown(ChoicesDropdownFilter):  # type: ignore[misc]
    """For a field with choices."""

    form_class = PlainForm
