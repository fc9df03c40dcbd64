"""The shapes of batches, for the OpenAPI schema only."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from workflows.models import Status

BATCH_STATUSES = [("running", ""), ("completed", "")]


class BatchInfoSerializer(serializers.Serializer[Any]):
    batch_id = serializers.UUIDField(help_text="The id of the batch")
    status = serializers.ChoiceField(
        choices=BATCH_STATUSES, help_text="`completed`: all have ended, with any status"
    )
    created_at = serializers.DateTimeField(help_text="When it was submitted")
    completed_at = serializers.DateTimeField(allow_null=True, help_text="When the last execution ended")
    total = serializers.IntegerField(help_text="Executions in it")
    remaining = serializers.IntegerField(help_text="Executions that have not ended")
    counts = serializers.DictField(child=serializers.IntegerField(), help_text="Executions by status")
    percentage = serializers.FloatField(help_text="Progress of all executions together")
    app = serializers.CharField(allow_null=True, help_text="The app that it runs; null for a workflow")
    metadata = serializers.DictField(help_text="As submitted")


class MemberSerializer(serializers.Serializer[Any]):
    position = serializers.IntegerField(help_text="Place in the batch, from 0")
    execution_id = serializers.UUIDField(help_text="The id of the execution")
    status = serializers.ChoiceField(choices=Status.choices, help_text="Its status")
    percentage = serializers.FloatField(help_text="Its progress")
    inputs = serializers.DictField(allow_null=True, help_text="Its input values, by name")
    error = serializers.CharField(allow_null=True, help_text="Why it failed")


class BatchDetailSerializer(BatchInfoSerializer):
    executions = MemberSerializer(many=True, help_text="A page of its executions, in order")


class CountSerializer(serializers.Serializer[Any]):
    count = serializers.IntegerField(help_text="Number of changed executions")


class RedeliveredSerializer(serializers.Serializer[Any]):
    count = serializers.IntegerField(help_text="Number of files to be sent again")
