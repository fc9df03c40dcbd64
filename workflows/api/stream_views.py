"""The endpoints of live streams: permission checks only. `streaming` does the streaming."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial, wraps
from typing import Any
from uuid import UUID

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from drf_spectacular.utils import OpenApiParameter
from rest_framework.permissions import AllowAny
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts import authentication, credentials
from comfyserve.api import accept, addresses, errors
from comfyserve.api.errors import LimitExceeded, NotFound, Unauthorized, ValidationFailed
from comfyserve.api.rendering import AnyAccept, Negotiation, rendered
from comfyserve.api.schema import describe
from comfyserve.api.validation import checked
from workflows.models import TERMINAL, Execution
from workflows.presentation import representations, selectors
from workflows.queue import queue_positions
from workflows.streaming import asgi, event_reader, links
from workflows.streaming.subscriber import Reader

from . import result_bodies
from .result_bodies import ResultBody
from .serializers import StreamQuery, SubmissionQuery

WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})\"?", re.IGNORECASE)
# Of each event, by its fields; `data` is JSON. See docs/guide.md for the kinds.
EVENT = {"type": "object", "properties": {name: {"type": "string"} for name in ("id", "event", "data")}}
EVENT_STREAM = "text/event-stream"
STREAM = {(200, EVENT_STREAM): EVENT}
REPLAYED = "Idempotency-Replayed"
NOTHING_MORE: Mapping[str, Any] = {"previews": False}  # a submission's query without parameters
LAST_EVENT_ID = OpenApiParameter(
    "Last-Event-ID",
    {"type": "integer", "minimum": 0, "maximum": 10**18 - 1},
    OpenApiParameter.HEADER,
    description="Continue after this event",
)
PREFER = OpenApiParameter(
    "Prefer",
    str,
    OpenApiParameter.HEADER,
    description="Such as `wait=30`: seconds to wait for the end of the execution before responding",
)


class StreamView(APIView):
    content_negotiation_class = AnyAccept
    permission_classes = [AllowAny]  # credentials may be in the URL


class ExecutionEventsView(StreamView):
    @describe(
        None,
        {**STREAM, 204: None},
        errors=(401,),
        parameters=[LAST_EVENT_ID, StreamQuery],
    )
    def get(self, request: Request, execution_id: str) -> HttpResponse:
        """Follow Execution: live events until its end (server-sent events).

        `status`, `log`, `node` and `output` events are numbered and stored: after a disconnect,
        `Last-Event-ID` (which browsers send automatically) replays the missed ones. Of `progress` and
        `preview` only the newest is sent. `end` is the last event; a client that reconnects after it gets
        204, which stops it.
        """
        execution = _execution(request, execution_id)
        query = checked(StreamQuery, request.query_params)
        at_the_end = _at_the_end(request, execution.id, execution.user_id, query)
        last = _last_event_id(request)
        if (
            last is not None
            and execution.status in TERMINAL
            and not event_reader.lines_after({execution.id: last})
        ):
            return _only_the_end(at_the_end["result"]) if at_the_end else HttpResponse(status=204)
        reader = Reader(
            user_id=execution.user_id,
            execution_id=execution.id,
            last_event_id=last,
            previews=query["previews"],
        )
        return following(request, reader, **at_the_end)


class AllEventsView(StreamView):
    @describe(
        None,
        STREAM,
        errors=(401,),
        parameters=[LAST_EVENT_ID],
        operation_id="workflows_events_of_all_retrieve",
    )
    def get(self, request: Request) -> HttpResponse:
        """Follow All Executions: live events of all your executions, on one connection.

        The stream begins with the current state of the live executions. After a disconnect, `Last-Event-ID`
        replays the missed events and may repeat earlier ones: compare the ids. If that event is no longer
        stored, the stream begins with a `gap` event.
        """
        user = authentication.require(request._request)
        reader = Reader(
            user_id=user.pk,
            last_event_id=_last_event_id(request),
            opened_at=event_reader.database_time(),
        )
        return following(request, reader)


def _execution(request: Request, execution_id: str) -> Execution:
    signature = request.query_params.get("signature")
    if signature is None:
        user = authentication.require(request._request)
        return selectors.execution_of(user=user, execution_id=execution_id)
    expires = request.query_params.get("expires", "")
    if not links.is_signed(execution_id, expires=expires, signature=signature):
        raise Unauthorized("The URL has expired or was altered; request a new events_url")
    execution = Execution.objects.filter(id=execution_id, user__is_active=True).first()
    if execution is None:
        raise NotFound(f"There is no execution {execution_id}")
    return execution


def _last_event_id(request: Request) -> int | None:
    text = request.headers.get("Last-Event-ID", "").strip()
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise ValidationFailed.of("Last-Event-ID", "Last-Event-ID must be the number of an event")
    return int(text)


def following(request: Request, reader: Reader, **form: Any) -> HttpResponse:
    """A response that streams to this reader. `form` has the other fields of `asgi.Follow`.

    Raises LimitExceeded if the user has too many streams open.
    """
    _check_open_streams(reader.user_id)
    return _stream(request, reader, **form)


def _check_open_streams(user_id: int) -> None:
    limit = settings.STREAMS_PER_USER
    if limit and asgi.open_streams(user_id) >= limit:
        raise LimitExceeded(
            f"You have {limit} streams open; close one, or follow all executions on one connection",
            headers={"Retry-After": "10"},
        )


def _stream(request: Request, reader: Reader, **form: Any) -> HttpResponse:
    reader.credential = credentials.of_request(request._request, user_id=reader.user_id)
    response = _event_stream()
    asgi.attach(response, asgi.Follow(reader, addresses.base_of(request._request), **form))
    return response


def _event_stream(content: bytes = b"") -> HttpResponse:
    # Proxies must not buffer the stream.
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return HttpResponse(content, content_type="text/event-stream; charset=utf-8", headers=headers)


# -- the result at the end of a stream -----------------------------------------------------------------
def _at_the_end(
    request: Request, execution_id: UUID, user_id: int, query: Mapping[str, Any]
) -> dict[str, Any]:
    """The fields of `asgi.Follow` for what the query includes. Unauthorized for a mere signed URL: that is
    only for the events.
    """
    include = query.get("include")
    if not include:
        return {}
    if authentication.require(request._request).pk != user_id:
        raise NotFound(f"There is no execution {execution_id}")
    base, encode = addresses.base_of(request._request), partial(result_bodies.event, "end")
    wanted = ResultBody(execution_id, user_id, base, "data" in include, encode)
    return {"result": wanted.read, "of_end": wanted.of_end}


def _only_the_end(result: Callable[[], asgi.Body | None]) -> HttpResponse:
    """For a client that has received all other events."""
    body = result()
    if not isinstance(body, asgi.WithFiles):
        return _event_stream(body or asgi.END)
    response = _event_stream(asgi.END)
    asgi.attach(response, body)
    return response


# -- a submission as a stream --------------------------------------------------------------------------
def wants_stream(request: HttpRequest) -> bool:
    """Whether it prefers server-sent events to JSON."""
    if EVENT_STREAM not in request.headers.get("Accept", "").lower():
        return False
    return accept.preferred(request, "application/json", EVENT_STREAM) == EVENT_STREAM


class JsonOrEvents(Negotiation):
    """For submissions. The events are not rendered by REST framework; errors are JSON in any case."""

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> Any:
        if not wants_stream(request._request):
            return super().select_renderer(request, renderers, format_suffix)
        first = next(iter(renderers))
        return first, first.media_type


def _follow_submitted(response: Response, request: Request, query: Mapping[str, Any]) -> HttpResponse:
    """The stream of the execution; its first event has the content of `response`."""
    execution_id = UUID(str(response.data["execution_id"]))
    user_id = authentication.require(request._request).pk
    url = links.events_url(execution_id, base=addresses.base_of(request._request))
    reader = Reader(user_id=user_id, execution_id=execution_id, previews=query["previews"])
    replayed = REPLAYED in response
    stream = _stream(
        request,
        reader,
        first=result_bodies.event("accepted", {**response.data, "events_url": url}),
        new=not replayed,
        **_at_the_end(request, execution_id, user_id, query),
    )
    if replayed:
        stream[REPLAYED] = response[REPLAYED]
    return stream


# -- Prefer: wait --------------------------------------------------------------------------------------
def seconds_to_wait(request: HttpRequest) -> int:
    """The seconds requested by `Prefer: wait=N`, MAX_WAIT_SECONDS at most; 0 if absent, or for a stream."""
    if wants_stream(request):
        return 0
    found = WAIT.search(request.headers.get("Prefer", ""))
    return min(int(found[1]), settings.MAX_WAIT_SECONDS) if found else 0


def waits(method: Callable[..., Response]) -> Callable[..., HttpResponse]:
    """Decorates a view method that accepts a submission: its response may wait for the result, or be a stream
    of the execution's events.

    Apply it outside of `idempotent`, which ends with a transaction.
    """

    @wraps(method)
    def wrapped(view: APIView, request: Request, *args: Any, **kwargs: Any) -> HttpResponse:
        query = checked(SubmissionQuery, request.query_params) if request.query_params else NOTHING_MORE
        streams = wants_stream(request._request)
        if streams:
            _check_open_streams(authentication.require(request._request).pk)
        response = method(view, request, *args, **kwargs)
        if response.status_code != 200:
            return response
        if streams:
            return _follow_submitted(response, request, query)
        if seconds := seconds_to_wait(request._request):
            _attach_wait(response, request, seconds, with_data="data" in query.get("include", ()))
        return response

    return wrapped


def _attach_wait(response: Response, request: Request, seconds: int, *, with_data: bool) -> None:
    execution_id = UUID(str(response.data["execution_id"]))
    user_id = authentication.require(request._request).pk
    wanted = ResultBody(execution_id, user_id, addresses.base_of(request._request), with_data)
    response["Preference-Applied"] = f"wait={seconds}"

    def body() -> asgi.Body | None:
        """The result, or the current status if it has not ended; None if it was deleted."""
        found = selectors.whole(execution_id)
        if found is None:
            return None
        execution = found.execution
        if execution.status in TERMINAL:
            return wanted.of(found)
        position = queue_positions.of([execution_id]).get(execution_id)
        state = representations.status(execution, queue_position=position, estimated_seconds=None)
        return rendered({**response.data, **state})

    def refusal() -> bytes:
        return rendered(errors.body(Unauthorized.error, asgi.REVOKED))

    credential = credentials.of_request(request._request, user_id=user_id)
    new = REPLAYED not in response
    wait = asgi.Wait((execution_id,), seconds, body, credential, refusal, new=new, from_rows=wanted.from_rows)
    asgi.attach(response, wait)
