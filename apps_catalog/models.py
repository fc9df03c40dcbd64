"""Tables of apps. Versions are immutable; only `catalog` writes these tables."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now


class Visibility(models.TextChoices):
    PRIVATE = "private"  # its owner
    GROUP = "group"  # and the members of a group
    EVERYBODY = "everybody"  # and everyone with an account


class App(models.Model):
    """What all versions of an app share. Addressed as `owner/name`, by its owner also as `name`."""

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="apps", db_index=False
    )
    name = models.CharField(max_length=63, help_text="Unique among the owner's apps")
    title = models.CharField(max_length=200)
    description = models.TextField(blank=True, default="")
    visibility = models.CharField(max_length=10, choices=Visibility.choices, default=Visibility.PRIVATE)
    group = models.ForeignKey(
        "auth.Group", null=True, blank=True, on_delete=models.SET_NULL, related_name="apps"
    )
    show_workflow = models.BooleanField(
        default=False, help_text="Users who may run it may also see its workflow"
    )
    latest = models.IntegerField(default=1, help_text="Number of its newest version")
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(null=True, blank=True, help_text="Null until the first change")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["owner", "name"], name="app_name_of_owner")]
        indexes = [
            # For the list of apps that a user may run.
            models.Index(fields=["id"], name="app_of_everybody", condition=Q(visibility="everybody")),
        ]

    def __str__(self) -> str:
        return self.address

    @property
    def address(self) -> str:
        """The address for everyone who may run it. Reads the owner."""
        return f"{self.owner.username}/{self.name}"


class AppVersion(models.Model):
    """One state of an app. Its id is also the holder of its files (`files.pins`)."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    app = models.ForeignKey(App, on_delete=models.CASCADE, related_name="versions", db_index=False)
    number = models.IntegerField()
    workflow = models.JSONField(help_text="As submitted")
    prompt = models.JSONField(help_text="In ComfyUI's API format, with the default of each input")
    inputs = models.JSONField(help_text="Parameters: see parameters.Parameter")
    outputs = models.JSONField(help_text="Named outputs: see parameters.NamedOutput")
    files = models.JSONField(default=list, help_text="Ids of files that the workflow or its defaults name")
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [models.UniqueConstraint(fields=["app", "number"], name="version_of_app")]

    def __str__(self) -> str:
        return f"version {self.number} of app {self.app_id}"
