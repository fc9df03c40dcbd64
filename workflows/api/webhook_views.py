"""The endpoints of users' webhooks."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.authentication import AuthenticatedRequest
from accounts.views import SessionView
from comfyserve.api.schema import describe
from comfyserve.api.validation import checked
from workflows.models import WebhookSecret
from workflows.presentation import selectors
from workflows.webhooks import outbox, signing

from .serializers import RotateSerializer
from .webhook_schemas import DeliverySerializer, SecretSerializer


class DeliveriesView(APIView):
    @describe(None, DeliverySerializer(many=True))
    def get(self, request: AuthenticatedRequest, execution_id: str) -> Response:
        """List Webhook Deliveries: those of one execution, each with its attempts."""
        execution = selectors.execution_of(user=request.user, execution_id=execution_id)
        return Response([outbox.shown(each) for each in outbox.deliveries_of(execution)])


class RedeliverView(APIView):
    @describe(None, DeliverySerializer, errors=(409,))
    def post(self, request: AuthenticatedRequest, execution_id: str, delivery_id: int) -> Response:
        """Redeliver Webhook: send a delivery again, with the same `webhook-id`."""
        execution = selectors.execution_of(user=request.user, execution_id=execution_id)
        return Response(outbox.shown(outbox.redeliver(execution=execution, delivery_id=delivery_id)))


class SecretView(SessionView):
    @describe(None, SecretSerializer, errors=(403,))
    def get(self, request: AuthenticatedRequest) -> Response:
        """Get Webhook Secret: the key that signs your webhooks."""
        return Response(_shown(signing.valid(user_id=request.user.pk)))


class RotateSecretView(SessionView):
    @describe(RotateSerializer, SecretSerializer, errors=(403,))
    def post(self, request: AuthenticatedRequest) -> Response:
        """Rotate Webhook Secret: the old one stays valid for a while."""
        hours = checked(RotateSerializer, request.data).get("overlap_hours")
        overlap = None if hours is None else timedelta(hours=hours)
        return Response(_shown(signing.rotate(user_id=request.user.pk, overlap=overlap)))


def _shown(secrets: list[WebhookSecret]) -> dict[str, Any]:
    present, *previous = secrets
    return {
        "secret": present.secret,
        "created_at": present.created_at,
        "previous": [{"secret": each.secret, "expires_at": each.expires_at} for each in previous],
    }
