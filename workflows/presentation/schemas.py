"""The shapes of `representations`, for the OpenAPI schema only."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import PolymorphicProxySerializer
from rest_framework import serializers

from workflows.models import Level, Priority, Status


class LineSerializer(serializers.Serializer[Any]):
    timestamp = serializers.DateTimeField(help_text="When it happened")
    level = serializers.ChoiceField(choices=Level.choices, help_text="How bad it is")
    message = serializers.CharField(help_text="What happened")
    node_id = serializers.CharField(allow_null=True, help_text="The node it is about, if it is about one")


class AcceptedSerializer(serializers.Serializer[Any]):
    execution_id = serializers.UUIDField(help_text="The id of the execution")
    status = serializers.ChoiceField(choices=Status.choices, help_text="`pending`")
    created_at = serializers.DateTimeField(help_text="When it was submitted")
    queue_position = serializers.IntegerField(allow_null=True, help_text="1 is next; null: not known")
    note = serializers.CharField(
        required=False, help_text="What is good to know, such as that no worker runs"
    )


class SubmittedSerializer(AcceptedSerializer):
    estimated_duration = serializers.FloatField(allow_null=True, help_text="Seconds; null: not known yet")


class RetriedSerializer(SubmittedSerializer):
    retried_from = serializers.UUIDField(help_text="The execution that was retried")


class ProblemSerializer(serializers.Serializer[Any]):
    code = serializers.CharField(help_text="Stable, such as `VALUE_BIGGER_THAN_MAX`")
    message = serializers.CharField(help_text="What is wrong, and what may be meant")
    field = serializers.CharField(allow_null=True, help_text="Where it stands in what was sent")
    certain = serializers.BooleanField(help_text="False: ComfyUI may know better by now")
    node_id = serializers.CharField(allow_null=True, help_text="The node it is about")
    class_type = serializers.CharField(allow_null=True, help_text="The node's class")
    input = serializers.CharField(allow_null=True, help_text="The node's input")
    value = serializers.JSONField(help_text="What stands there; may be null")
    allowed = serializers.ListField(allow_null=True, help_text="Least and most, or the first choices")
    near = serializers.ListField(child=serializers.CharField(), help_text="Names that may have been meant")


class OutputNodeSerializer(serializers.Serializer[Any]):
    node_id = serializers.CharField(help_text="A node that saves or shows something")
    title = serializers.CharField(help_text="Its title, else its class")
    class_type = serializers.CharField(help_text="Its class")
    will_run = serializers.BooleanField(help_text="False: ComfyUI leaves it out, for one of the problems")


class ModelPlaceSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(help_text="As the workflow names it")
    type = serializers.CharField(help_text="Such as `checkpoint`")
    workers = serializers.ListField(child=serializers.CharField(), help_text="That have it")
    near = serializers.ListField(child=serializers.CharField(), help_text="Like it in name, if nobody has it")


class CandidateSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(help_text="The worker's name")
    alive = serializers.BooleanField(help_text="Its heartbeat is fresh and its ComfyUI answers")
    heard_at = serializers.DateTimeField(help_text="Its last word")
    can_run = serializers.BooleanField(help_text="All of the workflow")
    certain = serializers.BooleanField(help_text="False: it may have something else by now")
    lacks = serializers.ListField(child=serializers.CharField(), help_text="Node classes and models")


class ReportSerializer(serializers.Serializer[Any]):
    valid = serializers.BooleanField(
        allow_null=True,
        help_text="Whether ComfyUI would run all of it; null: no worker told of its nodes",
    )
    certain = serializers.BooleanField(
        help_text="False: what is known may be out of date, and ComfyUI may say otherwise"
    )
    problems = ProblemSerializer(many=True, help_text="All that is wrong, for the worker that lacks least")
    warnings = serializers.ListField(child=serializers.CharField(), help_text="Good to know")
    outputs = OutputNodeSerializer(many=True, help_text="The output nodes")
    models = ModelPlaceSerializer(many=True, help_text="The models it names")
    workers = CandidateSerializer(many=True, help_text="The likeliest first")
    estimated_duration = serializers.FloatField(allow_null=True, help_text="Seconds; null: not known yet")


DELIVERY_STATES = [("waiting", ""), ("delivered", ""), ("failed", "")]


class DeliveredSerializer(serializers.Serializer[Any]):
    file = serializers.CharField(help_text="Its name at the destination, below the execution's id")
    status = serializers.ChoiceField(choices=DELIVERY_STATES, help_text="`failed`: given up")
    attempts = serializers.IntegerField(help_text="How often it was tried")
    error = serializers.CharField(allow_null=True, help_text="Of the last try")
    url = serializers.CharField(allow_null=True, help_text="Where it goes, without a signature")
    next_attempt_at = serializers.DateTimeField(allow_null=True, help_text="While it waits")


class ResultSerializer(serializers.Serializer[Any]):
    execution_id = serializers.UUIDField(help_text="The id of the execution")
    status = serializers.ChoiceField(choices=Status.choices, help_text="Where it is")
    priority = serializers.ChoiceField(choices=Priority.choices, help_text="How soon it is wanted")
    created_at = serializers.DateTimeField(help_text="When it was submitted")
    started_at = serializers.DateTimeField(allow_null=True, help_text="When ComfyUI began it")
    completed_at = serializers.DateTimeField(allow_null=True, help_text="When it ended, in whatever way")
    duration_seconds = serializers.FloatField(allow_null=True, help_text="From start to end")
    outputs = serializers.DictField(
        child=serializers.ListField(child=serializers.DictField()),
        help_text="By kind, such as `images`: filename, url, width, height and more of each; `converted` has "
        "the same of what it was converted to, where the run asked for that",
    )
    error = serializers.CharField(allow_null=True, help_text="Why it failed, for people")
    error_details = serializers.JSONField(allow_null=True, help_text="Why it failed, for programs")
    truncated = serializers.BooleanField(
        required=False, help_text="In lists: whether outputs or texts were left out or cut"
    )
    warnings = serializers.ListField(
        child=serializers.CharField(), help_text="What went differently than asked, such as outputs left out"
    )
    logs = LineSerializer(many=True, help_text="The latest lines, 20 at most")
    metadata = serializers.DictField(help_text="The submitted metadata as it was sent, and `model_used`")
    models_used = serializers.ListField(
        child=serializers.CharField(), help_text="The models that the workflow names, the main one first"
    )
    retried_from = serializers.UUIDField(allow_null=True, help_text="The execution that this one retries")
    events_url = serializers.CharField(
        required=False, help_text="Its live stream, for a browser: signed, and good for an hour; not in lists"
    )
    workflow = serializers.JSONField(
        required=False,
        help_text="As submitted, with `include=workflow`; null where it is of an app that does not show it",
    )
    app = serializers.CharField(required=False, help_text="Of a run of an app: `owner/name`")
    version = serializers.IntegerField(required=False, help_text="Of that app")
    inputs = serializers.DictField(
        required=False, help_text="The values that an app or a batch ran with, by name; not in lists"
    )
    named_outputs = serializers.DictField(
        child=serializers.ListField(child=serializers.DictField()),
        required=False,
        help_text="Of a run of an app: the same outputs by the names that the app gives them",
    )
    delivery = DeliveredSerializer(
        many=True, required=False, help_text="Of a run with `output.deliver_to`: how far each file is"
    )
    batch_id = serializers.UUIDField(required=False, help_text="The batch that it belongs to")


# With `Prefer: wait`, the result if the execution ends in time.
SUBMITTED_OR_ENDED = PolymorphicProxySerializer(
    component_name="SubmittedOrEnded",
    serializers=[SubmittedSerializer, ResultSerializer],
    resource_type_field_name=None,
)


class ProgressSerializer(serializers.Serializer[Any]):
    current_step = serializers.IntegerField(allow_null=True, help_text="Of the whole workflow, done so far")
    total_steps = serializers.IntegerField(allow_null=True, help_text="Of the whole workflow")
    percentage = serializers.FloatField(help_text="Of the whole workflow")
    current_node = serializers.CharField(allow_null=True, help_text="The node that runs")
    eta_seconds = serializers.FloatField(allow_null=True, help_text="Until it ends; null: not known")


class StatusSerializer(serializers.Serializer[Any]):
    execution_id = serializers.UUIDField(help_text="The id of the execution")
    status = serializers.ChoiceField(choices=Status.choices, help_text="Where it is")
    created_at = serializers.DateTimeField(help_text="When it was submitted")
    started_at = serializers.DateTimeField(allow_null=True, help_text="When ComfyUI began it")
    completed_at = serializers.DateTimeField(allow_null=True, help_text="When it ended, in whatever way")
    queue_position = serializers.IntegerField(allow_null=True, help_text="1 is next; null: does not wait")
    progress = ProgressSerializer(help_text="How far it is")
    estimated_completion = serializers.DateTimeField(allow_null=True, help_text="Null: not known")


class LogsSerializer(serializers.Serializer[Any]):
    execution_id = serializers.UUIDField(help_text="The id of the execution")
    logs = LineSerializer(many=True, help_text="The latest lines, oldest first")
    total_count = serializers.IntegerField(help_text="Lines that match, shown or not")
    filtered = serializers.BooleanField(help_text="Whether a level was asked for")


class DoneSerializer(serializers.Serializer[Any]):
    message = serializers.CharField(help_text="What was done")
