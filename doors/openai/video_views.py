"""The endpoints under /v1/videos."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponseRedirect
from rest_framework import serializers
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.models import User
from comfyserve.api import addresses
from comfyserve.api.errors import ValidationFailed
from comfyserve.api.parsers import StrictJSONParser
from comfyserve.api.rendering import AnyAccept
from comfyserve.api.validation import checked
from workflows.api.views import user_of

from . import uploads, videos
from .parameters import VideoSerializer

REFERENCE = "input_reference"
IN_REFERENCE = (
    "file_id",
    "image_url",
)  # of a reference that is an object; a form writes input_reference[file_id]


class ListSerializer(serializers.Serializer[Any]):
    limit = serializers.IntegerField(min_value=1, max_value=100, default=20)
    after = serializers.CharField(max_length=100, default=None)
    order = serializers.ChoiceField(["asc", "desc"], default="desc")


class ContentSerializer(serializers.Serializer[Any]):
    variant = serializers.ChoiceField(["video", "thumbnail"], default="video")


class VideosView(APIView):
    schema = None  # OpenAI's interface, documented by OpenAI
    parser_classes = [MultiPartParser, StrictJSONParser]

    def post(self, request: Request) -> Response:
        """Responds immediately; clients poll for the video."""
        if not isinstance(request.data, dict):
            raise ValidationFailed.of("body", "The body must be an object", "INVALID_TYPE")
        user = user_of(request)
        sent = {name: value for name, value in request.data.items() if name not in request.FILES}
        fields = VideoSerializer().fields
        given = checked(VideoSerializer, {name: value for name, value in sent.items() if name in fields})
        references = _references(request, sent, user)
        extra = {
            name: value
            for name, value in sent.items()
            if name not in fields and not name.startswith(REFERENCE)
        }
        execution = videos.create(user=user, given=given, extra=extra, references=references)
        return Response(videos.described([execution])[0])

    def get(self, request: Request) -> Response:
        given = checked(ListSerializer, request.query_params.dict())
        found, more = videos.page(
            user=user_of(request),
            limit=given["limit"],
            after=given["after"],
            ascending=given["order"] == "asc",
        )
        shown = videos.described(found)
        ends = {"first_id": shown[0]["id"], "last_id": shown[-1]["id"]} if shown else {}
        return Response({"object": "list", "data": shown, "has_more": more, **ends})


class VideoView(APIView):
    schema = None

    def get(self, request: Request, video_id: str) -> Response:
        return Response(videos.described([videos.find(user=user_of(request), video_id=video_id)])[0])

    def delete(self, request: Request, video_id: str) -> Response:
        return Response(videos.delete(videos.find(user=user_of(request), video_id=video_id)))


class VideoContentView(APIView):
    schema = None
    content_negotiation_class = AnyAccept  # OpenAI's client accepts application/binary only

    def get(self, request: Request, video_id: str) -> HttpResponseRedirect:
        """Redirects to a signed URL of the bytes, as other downloads are served."""
        given = checked(ContentSerializer, request.query_params.dict())
        execution = videos.find(user=user_of(request), video_id=video_id)
        base = addresses.base_of(request._request)
        return HttpResponseRedirect(videos.link(execution, variant=given["variant"], base=base))


def _references(request: Request, sent: dict[str, Any], user: User) -> dict[str, str]:
    """The reference by its kind: "image" or "video"."""
    upload = request.FILES.get(REFERENCE)
    if upload is not None:
        id_, kind = uploads.stored(upload, user, REFERENCE, kinds=("image", "video"))
        return {kind: id_}
    given = sent.get(REFERENCE)
    parts = given if isinstance(given, dict) else {}
    found = [parts.get(name) or sent.get(f"{REFERENCE}[{name}]") for name in IN_REFERENCE]
    named = [each for each in found if isinstance(each, str)]
    if given is not None and not named:
        raise ValidationFailed.of(REFERENCE, "It must be a file, or have a 'file_id' or an 'image_url'")
    return {"image": named[0]} if named else {}
