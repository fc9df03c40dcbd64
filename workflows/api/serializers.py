"""Validates the shape of requests. The rules are elsewhere: `graph`, `queue.submission`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from django.conf import settings
from rest_framework import serializers
from rest_framework.exceptions import ErrorDetail

from comfyserve.api.errors import ValidationFailed
from comfyserve.api.fields import FlagField, IncludeField, NumberField, WholeNumber
from comfyserve.api.parsers import Document
from comfyserve.api.validation import MAX_UNKNOWN
from comfyserve.near_names import did_you_mean, near
from files.serializers import MAX_SIZE, QUALITY, FormatFields
from workflows.graph import parsing
from workflows.models import Level, Priority, Status
from workflows.models.webhook import EXECUTION_EVENTS
from workflows.queue import partner_keys

MAX_METADATA_BYTES = 64 * 1024  # repeated in each result and each list item


PRIORITIES = [(priority, "") for priority in Priority]


class Choice(serializers.ChoiceField):
    """A choice whose error message lists the choices; null means the default."""

    def __init__(self, *, label: str, choices: Any, **kwargs: Any) -> None:
        said = ", ".join(str(value) for value, _ in choices)
        super().__init__(
            choices=choices,
            error_messages={"invalid_choice": f"{label} must be one of: {said}"},
            **kwargs,
        )


class TextField(serializers.CharField):
    """A string; numbers are not coerced."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class WorkflowField(serializers.JSONField):
    """A workflow in any accepted form; `graph.formats` decides which."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault(
            "help_text",
            "Nodes by id, as in the reference (`nodes`) or in ComfyUI's API format; the file that ComfyUI's "
            "editor saves; nodes in a `prompt`, as ComfyUI is sent them; or the id of a file with one",
        )
        super().__init__(**kwargs)


MAX_ADDRESSES = 100


class DeliverySerializer(serializers.Serializer[Any]):
    """The destination: a saved bucket, or URLs for this run only, such as presigned ones."""

    destination = TextField(required=False, max_length=63, help_text="The name of one of your destinations")
    url = TextField(
        required=False,
        max_length=8192,
        help_text="Receives the first file with PUT; not stored beyond the run",
    )
    urls = serializers.ListField(
        child=TextField(max_length=8192), required=False, min_length=1, max_length=MAX_ADDRESSES,
        help_text="The same for several files, in order",
    )  # fmt: skip

    def __init__(self, *, path: str = "output.deliver_to", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path = path

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        refuse_unknown(data, self.fields, path=self.path)
        found: dict[str, Any] = super().to_internal_value(data)
        if len(found) != 1:
            raise serializers.ValidationError("Give exactly one of: destination, url, urls")
        return {"urls": [found["url"]]} if "url" in found else found


class RedeliverSerializer(serializers.Serializer[Any]):
    files = serializers.ListField(
        child=TextField(max_length=800), required=False, allow_null=True, min_length=1, max_length=1000,
        help_text="Which ones, by `file` of the `delivery`, delivered or not; by default those not delivered",
    )  # fmt: skip
    deliver_to = DeliverySerializer(
        path="deliver_to", required=False, allow_null=True,
        help_text="Another place, as in `output.deliver_to`; by default the one they were going to",
    )  # fmt: skip


class OutputOptions(FormatFields):
    """The requested formats of a run's files, besides the originals."""

    quality = WholeNumber(**QUALITY, allow_null=True)
    max_size = WholeNumber(**MAX_SIZE, allow_null=True)
    deliver_to = DeliverySerializer(
        required=False, allow_null=True,
        help_text="Where each file is sent: the converted one, else the original",
    )  # fmt: skip

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        """The values that are given and not null: it is stored as JSON."""
        refuse_unknown(data, self.fields, path="output")
        found: dict[str, Any] = super().to_internal_value(data)
        return {name: value for name, value in found.items() if value is not None}


def refuse_unknown(data: Any, known: Iterable[str], *, path: str) -> None:
    """Nested fields are validated as strictly as those of the body."""
    strange = set(data) - set(known) if isinstance(data, Mapping) else set()
    if strange:
        raise serializers.ValidationError(
            {
                str(name)[:200]: [ErrorDetail(_no_field(str(name), known, path), "UNKNOWN_FIELD")]
                for name in sorted(strange, key=str)[:MAX_UNKNOWN]
            }
        )


def _no_field(name: str, known: Iterable[str], path: str) -> str:
    return f"There is no field '{path}.{name[:100]}'{did_you_mean(near(name, list(known)))}"


# A workflow in another field gets an error that says where it belongs.
class NeedsWorkflow(serializers.Serializer[Any]):
    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, dict) and "workflow" not in data:
            _refuse_misplaced(data)
        return super().to_internal_value(data)


def _refuse_misplaced(data: dict[str, Any]) -> None:
    message = ""
    if parsing.looks_like_workflow(data):
        message = 'The body is the workflow itself: send it as {"workflow": {...}}'
    for name, value in data.items():
        if isinstance(value, dict) and "workflow" in value:
            message = f"'workflow' is inside '{name[:100]}': send it and the rest at the top level"
    if message:
        raise ValidationFailed.of("workflow", message, "REQUIRED_FIELD")


class ValidateSerializer(NeedsWorkflow):
    also_called = {"prompt": "workflow", "graph": "workflow"}
    workflow = WorkflowField()
    output = OutputOptions(required=False, allow_null=True, help_text="As for *Execute Workflow*; checked")


class SubmissionOptions(serializers.Serializer[Any]):
    """The options common to all submissions."""

    also_called = {
        "webhook": "webhook_url",
        "callback_url": "webhook_url",
        "events": "webhook_events",
        "timeout": "timeout_minutes",
        "timeout_seconds": "timeout_minutes",
    }
    priority = Choice(
        label="Priority",
        choices=PRIORITIES,
        required=False,
        allow_null=True,
        help_text="Null: normal",
    )
    webhook_url = TextField(
        required=False,
        allow_null=True,
        allow_blank=True,
        max_length=2000,
        help_text="Called when it starts and ends",
    )
    webhook_events = serializers.ListField(
        child=Choice(label="Webhook event", choices=[(event, "") for event in EXECUTION_EVENTS]),
        required=False, allow_null=True,
        help_text="Which events to send to `webhook_url`; its start and its end by default",
    )  # fmt: skip
    metadata = serializers.DictField(
        required=False, allow_null=True, help_text="Your own data; returned unchanged"
    )
    timeout_minutes = WholeNumber(
        required=False, allow_null=True, min_value=1, max_value=settings.MAX_TIMEOUT_MINUTES,
        help_text="Counted from the start of the run",
    )  # fmt: skip
    output = OutputOptions(
        required=False, allow_null=True,
        help_text="Requested format of the files: `converted` in the result is beside each original",
    )  # fmt: skip

    def to_internal_value(self, data: Any) -> Any:
        found = super().to_internal_value(data)
        text = _text_of_metadata(data) if found.get("metadata") else ""
        _check_metadata(text or json.dumps(found.get("metadata"), ensure_ascii=False))
        defaults = {
            "priority": Priority.NORMAL,
            "webhook_url": "",
            "webhook_events": [],
            "metadata": {},
            "timeout_minutes": settings.DEFAULT_TIMEOUT_MINUTES,
            "output": {},
        }
        given = {name: value for name, value in found.items() if value or name not in defaults}
        return {**defaults, **given, "metadata_text": text}


class ExtraData(serializers.DictField):
    """The supported part of ComfyUI's `extra_data`."""

    KNOWN = ("extra_pnginfo", *partner_keys.NAMES)

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        found: dict[str, Any] = super().to_internal_value(data)
        strange = {
            name: [ErrorDetail(f"There is no field 'extra_data.{name[:100]}'", "UNKNOWN_FIELD")]
            for name in found.keys() - set(self.KNOWN)
        }
        if strange:
            raise serializers.ValidationError(strange)
        if not isinstance(found.get("extra_pnginfo", {}), dict):
            raise serializers.ValidationError({"extra_pnginfo": "extra_pnginfo must be an object"})
        return found


class ExecuteSerializer(NeedsWorkflow, SubmissionOptions):
    also_called = {"prompt": "workflow", "graph": "workflow", **SubmissionOptions.also_called}
    workflow = WorkflowField()
    extra_data = ExtraData(
        required=False,
        allow_null=True,
        help_text=(
            "As in ComfyUI: `extra_pnginfo` is written into the saved images; "
            "`api_key_comfy_org` and `auth_token_comfy_org` are your keys for nodes of partner services, "
            "kept encrypted until the execution ends and not inherited by a retry"
        ),
    )
    partial_execution_targets = serializers.ListField(
        child=TextField(max_length=200),
        required=False,
        allow_null=True,
        allow_empty=False,
        help_text="Run only these output nodes and what they need",
    )


def _check_metadata(text: str) -> None:
    size = len(text.encode(errors="replace"))
    if size > MAX_METADATA_BYTES:
        message = f"Metadata may have at most {MAX_METADATA_BYTES} bytes as JSON; this has {size}"
        raise serializers.ValidationError({"metadata": [message]}, code="TOO_LONG")


def _text_of_metadata(data: Any) -> str:
    """As it was sent; empty if the source text is not available."""
    return (data.text_of("metadata") or "") if isinstance(data, Document) else ""


class RotateSerializer(serializers.Serializer[Any]):
    overlap_hours = NumberField(
        required=False, min_value=0, max_value=24 * 30, help_text="How long the old secret stays valid"
    )


class StreamQuery(serializers.Serializer[Any]):
    """For a live stream. Signed URLs are checked by `streaming.links`, not here."""

    takes_any = True  # event source libraries add parameters of their own

    previews = FlagField(default=False, help_text="Also send previews of the result so far")
    include = IncludeField(
        "result",
        "data",
        help_text="`result`: in the `end` event. `data`: also the content of its files, in base64. Both need "
        "an `Authorization` header, even with a signed URL",
    )
    expires = serializers.IntegerField(required=False, help_text="Of a signed URL")
    signature = serializers.CharField(required=False, help_text="Of a signed URL; no token is needed then")


class PageQuery(serializers.Serializer[Any]):
    limit = serializers.IntegerField(min_value=1, max_value=100, default=20, help_text="Page size")
    offset = serializers.IntegerField(
        min_value=0, max_value=2**31, default=0, help_text="Number of items to skip"
    )


class ListQuery(serializers.Serializer[Any]):
    status = Choice(
        label="Status", choices=Status.choices, required=False, help_text="Only executions with this status"
    )
    cursor = TextField(
        required=False,
        max_length=300,
        help_text="`X-Next-Cursor` of the previous page: concurrent changes cause no gaps or duplicates",
    )
    app = serializers.CharField(
        required=False, max_length=300, help_text="Only runs of this app: `owner/name`"
    )
    limit = serializers.IntegerField(min_value=1, max_value=100, default=20, help_text="Page size")
    offset = serializers.IntegerField(
        min_value=0, max_value=2**31, default=0, help_text="Number of items to skip"
    )


class LogQuery(serializers.Serializer[Any]):
    level = Choice(label="Level", choices=Level.choices, required=False, help_text="Only lines of this level")
    tail = serializers.IntegerField(
        min_value=1, max_value=1000, default=100, help_text="Number of latest lines"
    )


class ResultQuery(serializers.Serializer[Any]):
    include = IncludeField(
        "workflow",
        "data",
        help_text="`workflow`: as submitted. `data`: the content of the files, in base64, in `data` of each",
    )


class SubmissionQuery(serializers.Serializer[Any]):
    """For a submission whose response has the result, or is a stream."""

    include = IncludeField(
        "result",
        "data",
        help_text="`result`: in the `end` event of a stream. `data`: also the content of its files, in "
        "base64; also in a response with `Prefer: wait`",
    )
    previews = FlagField(default=False, help_text="Also send previews of the result so far, in a stream")


class BatchOptions(SubmissionOptions):
    """The options of a batch: one set of values for each execution, or a grid of them."""

    webhook_events = None  # type: ignore[assignment]  # there is one event, and it is sent
    inputs = serializers.ListField(
        child=serializers.DictField(), required=False, allow_null=True,
        help_text="Values by name for each execution; up to 1,000",
    )  # fmt: skip
    grid = serializers.DictField(
        child=serializers.ListField(), required=False, allow_null=True,
        help_text="Lists of values by name: each combination is an execution; the last name varies fastest",
    )  # fmt: skip


class BatchSerializer(NeedsWorkflow, BatchOptions):
    also_called = ExecuteSerializer.also_called
    workflow = WorkflowField()
