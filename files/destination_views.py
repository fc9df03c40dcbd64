"""The endpoints under /destinations/: parse, call one function, render."""

from __future__ import annotations

from typing import Any

from django.urls import path
from drf_spectacular.types import OpenApiTypes
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from comfyserve.api.fields import TextField
from comfyserve.api.schema import describe
from comfyserve.api.validation import checked
from comfyserve.outbound import client, errors

from . import destinations
from .models import Destination
from .views import user_of

NAME = r"^[a-z0-9][a-z0-9_-]{0,62}$"


class NameField(serializers.RegexField):
    default_error_messages = {"invalid": "A name has lower-case letters, digits, '-' and '_'"}


class ChangeDestinationSerializer(serializers.Serializer[Any]):
    """The fields that may be changed; omitted ones stay as they are."""

    endpoint = TextField(max_length=500, required=False, help_text="https://host of the S3 server")
    region = TextField(max_length=63, required=False, help_text="Default: us-east-1")
    bucket = serializers.RegexField(
        r"^[A-Za-z0-9][A-Za-z0-9._-]{1,254}$", required=False, help_text="An existing bucket"
    )
    prefix = TextField(max_length=255, required=False, allow_blank=True, help_text="A folder in the bucket")
    access_key = TextField(max_length=255, required=False, help_text="Access key id")
    secret_key = TextField(
        max_length=255,
        required=False,
        write_only=True,
        help_text="Never shown; required again when the address changes",
    )

    def validate_endpoint(self, value: str) -> str:
        if "?" in value or "#" in value or not value.startswith(("https://", "http://")):
            raise serializers.ValidationError("The endpoint is an address such as https://s3.example.com")
        try:
            client.parse(value)
        except errors.Refused as exc:
            raise serializers.ValidationError(str(exc)) from exc
        return value


class DestinationSerializer(ChangeDestinationSerializer):
    name = NameField(NAME, help_text="Your name for it, used in `deliver_to`")
    endpoint = TextField(max_length=500, help_text="https://host of the S3 server")
    region = TextField(max_length=63, default="us-east-1", help_text="Default: us-east-1")
    bucket = serializers.RegexField(r"^[A-Za-z0-9][A-Za-z0-9._-]{1,254}$", help_text="An existing bucket")
    access_key = TextField(max_length=255, help_text="Access key id")
    secret_key = TextField(max_length=255, write_only=True, help_text="Stored encrypted, never shown")


class DestinationInfoSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(help_text="The name used in `deliver_to`")
    endpoint = serializers.CharField(help_text="The S3 server")
    region = serializers.CharField(help_text="Region")
    bucket = serializers.CharField(help_text="The bucket that files are delivered to")
    prefix = serializers.CharField(allow_blank=True, help_text="A folder in the bucket")
    access_key = serializers.CharField(help_text="The access key id; its secret is never shown")
    created_at = serializers.DateTimeField(help_text="When it was created")
    updated_at = serializers.DateTimeField(help_text="When it was saved and tested")


def shown(destination: Destination) -> dict[str, Any]:
    return {str(name): getattr(destination, str(name)) for name in DestinationInfoSerializer().fields}


class ListView(APIView):
    """The user's buckets."""

    @describe(None, DestinationInfoSerializer(many=True))
    def get(self, request: Request) -> Response:
        """List Destinations: your buckets that outputs can be delivered to."""
        return Response([shown(each) for each in destinations.of_user(user_of(request))])

    @describe(DestinationSerializer, {201: DestinationInfoSerializer}, errors=(409,))
    def post(self, request: Request) -> Response:
        """Save Destination: a bucket on any S3 server. It is saved if a small file can be written to it."""
        given = checked(DestinationSerializer, request.data)
        return Response(shown(destinations.create(user=user_of(request), given=given)), status=201)


class DestinationView(APIView):
    """One of them."""

    @describe(None, DestinationInfoSerializer)
    def get(self, request: Request, destination: str) -> Response:
        """Get Destination: all but its secret."""
        return Response(shown(destinations.find(user=user_of(request), name=destination)))

    @describe(ChangeDestinationSerializer, DestinationInfoSerializer)
    def patch(self, request: Request, destination: str) -> Response:
        """Change Destination: it is tested again. A new address requires the secret key again."""
        found = destinations.find(user=user_of(request), name=destination)
        given = checked(ChangeDestinationSerializer, request.data)
        return Response(shown(destinations.change(found, given=given)))

    @describe(None, {200: OpenApiTypes.OBJECT}, answer={"message": "Destination deleted successfully"})
    def delete(self, request: Request, destination: str) -> Response:
        """Delete Destination: pending deliveries to it fail; delivered files stay."""
        destinations.delete(destinations.find(user=user_of(request), name=destination))
        return Response({"message": "Destination deleted successfully"})


urlpatterns = [
    path("", ListView.as_view()),
    path("<str:destination>", DestinationView.as_view()),
]
