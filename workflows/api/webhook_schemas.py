"""The shapes of webhooks, for the OpenAPI schema only."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from workflows.models import Delivery, WebhookEvent


class OldSecretSerializer(serializers.Serializer[Any]):
    secret = serializers.CharField(help_text="A rotated secret")
    expires_at = serializers.DateTimeField(help_text="Until when it stays valid")


class SecretSerializer(serializers.Serializer[Any]):
    secret = serializers.CharField(help_text="whsec_…, as used by Standard Webhooks verifiers")
    created_at = serializers.DateTimeField(help_text="Since when it is used")
    previous = OldSecretSerializer(many=True, help_text="Older secrets that are still used")


class AttemptSerializer(serializers.Serializer[Any]):
    timestamp = serializers.DateTimeField(help_text="When it was recorded")
    status_code = serializers.IntegerField(allow_null=True, help_text="Null: no response")
    duration_ms = serializers.IntegerField(help_text="Response time of the receiver")
    answer = serializers.CharField(help_text="The first kilobyte of the response")
    error = serializers.CharField(allow_null=True, help_text="Why there was no response")


class DeliverySerializer(serializers.Serializer[Any]):
    id = serializers.IntegerField(help_text="The id of the delivery")
    webhook_id = serializers.CharField(help_text="The header webhook-id: the same for each try")
    event = serializers.ChoiceField(choices=WebhookEvent.choices, help_text="The event")
    url = serializers.CharField(help_text="The receiver's URL")
    state = serializers.ChoiceField(choices=Delivery.State.choices, help_text="State of the delivery")
    error = serializers.CharField(allow_null=True, help_text="HTTP status of the last try")
    created_at = serializers.DateTimeField(help_text="When the event happened")
    finished_at = serializers.DateTimeField(allow_null=True, help_text="When it was delivered or failed")
    next_attempt_at = serializers.DateTimeField(allow_null=True, help_text="Null: no further try")
    attempts = AttemptSerializer(many=True, help_text="The latest 50 attempts")
