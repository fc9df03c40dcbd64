"""The shapes of requests and responses about apps. Rules are in `catalog` and `running`."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from comfyserve.api.fields import BooleanField, NumberField, TextField
from workflows.api.serializers import Choice, SubmissionOptions, WorkflowField
from workflows.presentation.schemas import SubmittedSerializer

from . import parameters
from .models import Visibility


class AnyField(serializers.JSONField):
    """Any JSON value."""


class InputSerializer(serializers.Serializer[Any]):
    also_called = {"min": "minimum", "max": "maximum", "options": "choices", "label": "title"}
    name = TextField(max_length=63, help_text="Its name in requests")
    node = TextField(max_length=200, help_text="Id of the node")
    input = TextField(max_length=200, help_text="Name of the node's input")
    type = Choice(
        label="Type", choices=[(each, "") for each in parameters.TYPES], required=False, allow_null=True,
        help_text="Inferred from the node if omitted",
    )  # fmt: skip
    title = TextField(max_length=200, required=False, allow_null=True, help_text="For display")
    description = TextField(
        max_length=2000, required=False, allow_null=True, allow_blank=True, help_text="For display"
    )
    default = AnyField(required=False, allow_null=True, help_text="The workflow's own value if omitted")
    required = BooleanField(  # type: ignore[assignment]  # a field of that name
        required=False,
        allow_null=True,
        help_text="Whether a run must give it; true if there is no default",
    )
    minimum = NumberField(required=False, allow_null=True, help_text="Of a number")
    maximum = NumberField(required=False, allow_null=True, help_text="Of a number")
    step = NumberField(required=False, allow_null=True, help_text="Of a number, for a slider")
    choices = serializers.ListField(
        child=TextField(max_length=500, allow_blank=True), required=False, allow_null=True, max_length=1000,
        help_text="The choices; null: those that the workers currently have",
    )  # fmt: skip


class OutputSerializer(serializers.Serializer[Any]):
    name = TextField(max_length=63, help_text="Its name in results")
    node = TextField(max_length=200, help_text="Id of the node that produces it")
    title = TextField(max_length=200, required=False, allow_null=True, help_text="For display")
    description = TextField(
        max_length=2000, required=False, allow_null=True, allow_blank=True, help_text="For display"
    )


class ChangeAppSerializer(serializers.Serializer[Any]):
    """What can be changed; omitted fields stay as they are."""

    title = TextField(
        max_length=200, required=False, help_text="Display title; derived from the name if omitted"
    )
    description = TextField(max_length=10_000, required=False, allow_blank=True, help_text="For display")
    workflow = WorkflowField(required=False)
    inputs = InputSerializer(
        many=True, required=False, allow_null=True,
        help_text="If omitted: those of the editor's app mode, else prompts, files, seed, size and steps",
    )  # fmt: skip
    outputs = OutputSerializer(
        many=True, required=False, allow_null=True, help_text="If omitted: every output node"
    )
    visibility = Choice(
        label="Visibility", choices=Visibility.choices, required=False, help_text="Who may run it"
    )
    group = TextField(
        max_length=150, required=False, allow_null=True, help_text="With `group`: one that its owner is in"
    )
    show_workflow = BooleanField(
        required=False, help_text="Whether those who may run it may also see its workflow"
    )


class AppSerializer(ChangeAppSerializer):
    name = TextField(
        max_length=63, help_text="In addresses: lower-case letters, digits, '-' and '_'; never changes"
    )
    workflow = WorkflowField()


class RunSerializer(SubmissionOptions):
    inputs = serializers.DictField(
        required=False, allow_null=True, help_text="Values by the names of the app's inputs"
    )

    def to_internal_value(self, data: Any) -> Any:
        found = super().to_internal_value(data)
        return {**found, "inputs": found.get("inputs") or {}}


# -- answers ---------------------------------------------------------------------------------------------
class ShownInputSerializer(InputSerializer):
    node = TextField(required=False, help_text="Only if the caller may see the workflow")
    input = TextField(required=False, help_text="Only if the caller may see the workflow")


class ShownOutputSerializer(OutputSerializer):
    node = TextField(required=False, help_text="Only if the caller may see the workflow")


class AppInfoSerializer(serializers.Serializer[Any]):
    app = serializers.CharField(help_text="Its address: `owner/name`")
    name = serializers.CharField(help_text="Its name; enough to address one's own app")
    owner = serializers.CharField(help_text="Its owner's username")
    title = serializers.CharField(help_text="For display")
    description = serializers.CharField(help_text="For display")
    visibility = serializers.ChoiceField(choices=Visibility.choices, help_text="Who may run it")
    group = serializers.CharField(allow_null=True, help_text="With visibility `group`")
    show_workflow = serializers.BooleanField(help_text="Whether those who may run it may see the workflow")
    is_own = serializers.BooleanField(help_text="Whether the caller owns it, and so may change it")
    version = serializers.IntegerField(
        help_text="The version described here; the newest unless another was requested"
    )
    latest_version = serializers.IntegerField(help_text="The newest version")
    created_at = serializers.DateTimeField(help_text="When the app was created")
    updated_at = serializers.DateTimeField(allow_null=True, help_text="Null until the first change")
    inputs = ShownInputSerializer(many=True, help_text="The inputs of a run")
    outputs = ShownOutputSerializer(many=True, help_text="The outputs under `named_outputs` of results")
    workflow = serializers.JSONField(
        required=False, help_text="Not in lists, and only where the caller may see it"
    )


class AppSchemaSerializer(serializers.Serializer[Any]):
    app = serializers.CharField(help_text="Its address")
    version = serializers.IntegerField(help_text="The version described here")
    inputs = serializers.DictField(help_text="JSON Schema (draft 2020-12) of `inputs` of a run")
    outputs = ShownOutputSerializer(many=True, help_text="The outputs under `named_outputs` of results")


class VersionSerializer(serializers.Serializer[Any]):
    version = serializers.IntegerField(help_text="Its number, as in `name@3`")
    created_at = serializers.DateTimeField(help_text="When it was saved")
    inputs = ShownInputSerializer(many=True, help_text="The inputs of a run")
    outputs = ShownOutputSerializer(many=True, help_text="The outputs under `named_outputs` of results")


class AppRunSerializer(SubmittedSerializer):
    app = serializers.CharField(help_text="The app that runs: `owner/name`")
    version = serializers.IntegerField(help_text="Its version")
    inputs = serializers.DictField(
        help_text="All values of the run, including defaults and a randomly drawn seed"
    )
