"""The shapes of webhooks, for the OpenAPI schema only."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from workflows.models import Delivery, WebhookEvent


class OldSecretSerializer(serializers.Serializer[Any]):
    secret = serializers.CharField(help_text="One that was rotated")
    expires_at = serializers.DateTimeField(help_text="Until when it signs as well")


class SecretSerializer(serializers.Serializer[Any]):
    secret = serializers.CharField(help_text="whsec_… as verifiers of Standard Webhooks take it")
    created_at = serializers.DateTimeField(help_text="Since when it signs")
    previous = OldSecretSerializer(many=True, help_text="Older ones that sign as well")


class AttemptSerializer(serializers.Serializer[Any]):
    timestamp = serializers.DateTimeField(help_text="When it was recorded")
    status_code = serializers.IntegerField(allow_null=True, help_text="Null: nothing came back")
    duration_ms = serializers.IntegerField(help_text="How long the receiver took")
    answer = serializers.CharField(help_text="The first kilobyte of what the receiver answered")
    error = serializers.CharField(allow_null=True, help_text="Why nothing came back")


class DeliverySerializer(serializers.Serializer[Any]):
    id = serializers.IntegerField(help_text="The id of the delivery")
    webhook_id = serializers.CharField(help_text="The header webhook-id: the same on each try")
    event = serializers.ChoiceField(choices=WebhookEvent.choices, help_text="What it tells")
    url = serializers.CharField(help_text="Where it goes")
    state = serializers.ChoiceField(choices=Delivery.State.choices, help_text="What became of it")
    error = serializers.CharField(allow_null=True, help_text="Of the last try")
    created_at = serializers.DateTimeField(help_text="When the event happened")
    finished_at = serializers.DateTimeField(allow_null=True, help_text="When it was delivered or given up")
    next_attempt_at = serializers.DateTimeField(allow_null=True, help_text="Null: it is not tried again")
    attempts = AttemptSerializer(many=True, help_text="What was tried, the latest 50")
