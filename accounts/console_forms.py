"""Forms of the console for users."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from unfold.forms import UserChangeForm, UserCreationForm

from accounts.registration import username_taken


class _UniqueUsername:
    """Refuses a username that differs from another only in case, as registration does.

    A username that is not changed stays valid: installations may have such users already.
    """

    def clean_username(self: Any) -> str:
        username = str(self.cleaned_data.get("username") or "")
        if "username" in self.changed_data and username_taken(username, but=self.instance):
            raise ValidationError("Another user has this username, ignoring case", code="unique")
        return username


class AddUserForm(_UniqueUsername, UserCreationForm):  # type: ignore[misc]
    pass


class EditUserForm(_UniqueUsername, UserChangeForm):  # type: ignore[misc]
    pass
