"""The shapes of `representations`, for the OpenAPI schema only."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import PolymorphicProxySerializer
from rest_framework import serializers

from workflows.models import Level, Priority, Status


class LineSerializer(serializers.Serializer[Any]):
    timestamp = serializers.DateTimeField(help_text="When it happened")
    level = serializers.ChoiceField(choices=Level.choices, help_text="Its level")
    message = serializers.CharField(help_text="The message")
    node_id = serializers.CharField(allow_null=True, help_text="The node that it concerns, if any")


class AcceptedSerializer(serializers.Serializer[Any]):
    execution_id = serializers.UUIDField(help_text="The id of the execution")
    status = serializers.ChoiceField(choices=Status.choices, help_text="`pending`")
    created_at = serializers.DateTimeField(help_text="When it was submitted")
    queue_position = serializers.IntegerField(allow_null=True, help_text="1 is next; null: unknown")
    note = serializers.CharField(required=False, help_text="A notice, such as that no worker is running")


class SubmittedSerializer(AcceptedSerializer):
    estimated_duration = serializers.FloatField(allow_null=True, help_text="Seconds; null: unknown")


class RetriedSerializer(SubmittedSerializer):
    retried_from = serializers.UUIDField(help_text="The execution that was retried")


class ProblemSerializer(serializers.Serializer[Any]):
    code = serializers.CharField(help_text="Stable, such as `VALUE_BIGGER_THAN_MAX`")
    message = serializers.CharField(help_text="What is wrong, and a suggestion")
    field = serializers.CharField(allow_null=True, help_text="Its path in the request")
    certain = serializers.BooleanField(help_text="False: ComfyUI may decide otherwise by now")
    node_id = serializers.CharField(allow_null=True, help_text="The node that it concerns")
    class_type = serializers.CharField(allow_null=True, help_text="The node's class")
    input = serializers.CharField(allow_null=True, help_text="The node's input")
    value = serializers.JSONField(help_text="The value given; may be null")
    allowed = serializers.ListField(allow_null=True, help_text="Minimum and maximum, or the first choices")
    near = serializers.ListField(child=serializers.CharField(), help_text="Suggested names")


class OutputNodeSerializer(serializers.Serializer[Any]):
    node_id = serializers.CharField(help_text="A node that saves or shows something")
    title = serializers.CharField(help_text="Its title, else its class")
    class_type = serializers.CharField(help_text="Its class")
    will_run = serializers.BooleanField(help_text="False: ComfyUI skips it because of one of the problems")


class ModelPlaceSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(help_text="Its name in the workflow")
    type = serializers.CharField(help_text="Such as `checkpoint`")
    workers = serializers.ListField(child=serializers.CharField(), help_text="Workers that have it")
    near = serializers.ListField(
        child=serializers.CharField(), help_text="Similar names, if no worker has it"
    )


class CandidateSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(help_text="The worker's name")
    alive = serializers.BooleanField(help_text="Its heartbeat is recent and its ComfyUI responds")
    heard_at = serializers.DateTimeField(help_text="Time of its last report")
    can_run = serializers.BooleanField(help_text="Whether it can run the whole workflow")
    certain = serializers.BooleanField(help_text="False: it may have changed since its last report")
    lacks = serializers.ListField(child=serializers.CharField(), help_text="Missing node classes and models")


class ReportSerializer(serializers.Serializer[Any]):
    valid = serializers.BooleanField(
        allow_null=True,
        help_text="Whether ComfyUI would run all of it; null: no worker reported its nodes",
    )
    certain = serializers.BooleanField(
        help_text="False: the reports may be out of date, and ComfyUI may decide otherwise"
    )
    problems = ProblemSerializer(many=True, help_text="All problems, for the worker with the fewest")
    warnings = serializers.ListField(child=serializers.CharField(), help_text="Warnings and notices")
    outputs = OutputNodeSerializer(many=True, help_text="The output nodes")
    models = ModelPlaceSerializer(many=True, help_text="The models it names")
    workers = CandidateSerializer(many=True, help_text="The most suitable first")
    estimated_duration = serializers.FloatField(allow_null=True, help_text="Seconds; null: unknown")


DELIVERY_STATES = [("waiting", ""), ("delivered", ""), ("failed", "")]


class DeliveredSerializer(serializers.Serializer[Any]):
    file = serializers.CharField(help_text="Its name at the destination, below the execution's id")
    status = serializers.ChoiceField(choices=DELIVERY_STATES, help_text="`failed`: no further tries")
    attempts = serializers.IntegerField(help_text="Number of tries")
    error = serializers.CharField(allow_null=True, help_text="Of the last try")
    url = serializers.CharField(allow_null=True, help_text="The target URL, without its signature")
    next_attempt_at = serializers.DateTimeField(allow_null=True, help_text="Of a waiting delivery")


class ResultSerializer(serializers.Serializer[Any]):
    execution_id = serializers.UUIDField(help_text="The id of the execution")
    status = serializers.ChoiceField(choices=Status.choices, help_text="Its status")
    priority = serializers.ChoiceField(choices=Priority.choices, help_text="Its priority")
    created_at = serializers.DateTimeField(help_text="When it was submitted")
    started_at = serializers.DateTimeField(allow_null=True, help_text="When ComfyUI started it")
    completed_at = serializers.DateTimeField(allow_null=True, help_text="When it ended, with any status")
    duration_seconds = serializers.FloatField(allow_null=True, help_text="Seconds from start to end")
    outputs = serializers.DictField(
        child=serializers.ListField(child=serializers.DictField()),
        help_text="By kind, such as `images`: filename, url, width, height and more of each; `converted` has "
        "the same of what it was converted to, where the run asked for that; `data` with `include=data`",
    )
    error = serializers.CharField(allow_null=True, help_text="Why it failed, as text")
    error_details = serializers.JSONField(allow_null=True, help_text="Why it failed, machine-readable")
    truncated = serializers.BooleanField(
        required=False, help_text="In lists: whether outputs or texts were omitted or truncated"
    )
    warnings = serializers.ListField(
        child=serializers.CharField(), help_text="Deviations from the request, such as skipped outputs"
    )
    logs = LineSerializer(many=True, help_text="The latest lines, 20 at most")
    metadata = serializers.DictField(help_text="The metadata as submitted, and `model_used`")
    models_used = serializers.ListField(
        child=serializers.CharField(), help_text="The models that the workflow names, the main one first"
    )
    retried_from = serializers.UUIDField(allow_null=True, help_text="The execution that this one retries")
    events_url = serializers.CharField(
        required=False, help_text="Its live stream, for browsers: signed, valid for an hour; not in lists"
    )
    workflow = serializers.JSONField(
        required=False,
        help_text="As submitted, with `include=workflow`; null if its app does not show it",
    )
    app = serializers.CharField(required=False, help_text="Of a run of an app: `owner/name`")
    version = serializers.IntegerField(required=False, help_text="Version of that app")
    inputs = serializers.DictField(
        required=False, help_text="The values that an app or a batch ran with, by name; not in lists"
    )
    named_outputs = serializers.DictField(
        child=serializers.ListField(child=serializers.DictField()),
        required=False,
        help_text="Of a run of an app: the same outputs by the names that the app gives them",
    )
    delivery = DeliveredSerializer(
        many=True, required=False, help_text="Of a run with `output.deliver_to`: the state of each file"
    )
    batch_id = serializers.UUIDField(required=False, help_text="The batch that it belongs to")


# With `Prefer: wait`, the result if the execution ends in time.
SUBMITTED_OR_ENDED = PolymorphicProxySerializer(
    component_name="SubmittedOrEnded",
    serializers=[SubmittedSerializer, ResultSerializer],
    resource_type_field_name=None,
)


class ProgressSerializer(serializers.Serializer[Any]):
    current_step = serializers.IntegerField(
        allow_null=True, help_text="Of the whole workflow, completed so far"
    )
    total_steps = serializers.IntegerField(allow_null=True, help_text="Of the whole workflow")
    percentage = serializers.FloatField(help_text="Of the whole workflow")
    current_node = serializers.CharField(allow_null=True, help_text="The running node")
    eta_seconds = serializers.FloatField(allow_null=True, help_text="Seconds until it ends; null: unknown")


class StatusSerializer(serializers.Serializer[Any]):
    execution_id = serializers.UUIDField(help_text="The id of the execution")
    status = serializers.ChoiceField(choices=Status.choices, help_text="Its status")
    created_at = serializers.DateTimeField(help_text="When it was submitted")
    started_at = serializers.DateTimeField(allow_null=True, help_text="When ComfyUI started it")
    completed_at = serializers.DateTimeField(allow_null=True, help_text="When it ended, with any status")
    queue_position = serializers.IntegerField(allow_null=True, help_text="1 is next; null: not waiting")
    progress = ProgressSerializer(help_text="Its progress")
    estimated_completion = serializers.DateTimeField(allow_null=True, help_text="Null: unknown")


class LogsSerializer(serializers.Serializer[Any]):
    execution_id = serializers.UUIDField(help_text="The id of the execution")
    logs = LineSerializer(many=True, help_text="The latest lines, oldest first")
    total_count = serializers.IntegerField(help_text="Number of matching lines, shown or not")
    filtered = serializers.BooleanField(help_text="Whether the lines are filtered by level")


class DoneSerializer(serializers.Serializer[Any]):
    message = serializers.CharField(help_text="Description of the result")
