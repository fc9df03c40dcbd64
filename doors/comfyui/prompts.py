"""Prompts: submit, queue, history, interrupt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError
from django.db.models import Q, QuerySet
from django.db.models.functions import Now
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.models import User
from comfyserve.api.errors import Conflict, NotFound, ValidationFailed
from comfyserve.ids import uuid7
from workflows.api.views import user_of
from workflows.models import ALIVE, TERMINAL, Execution, Priority, Status
from workflows.presentation import selectors
from workflows.queue import commands, partner_keys, submission

from . import files, representations
from .errors import ComfyUIView, PromptRefused

SHOWN = 200  # prompts in one response of the queue
HISTORY, LONGEST_HISTORY = 64, 200
LONGEST_CLIENT_ID = 200
IDS = 100  # in one request
LONGEST_PROMPT = 2**31  # bytes: any


class PromptView(ComfyUIView):
    def get(self, request: Request) -> Response:
        remaining = _alive(user_of(request)).count()
        return Response({"exec_info": {"queue_remaining": remaining}})

    def post(self, request: Request) -> Response:
        """Submit. `client_id` names the websocket that gets its messages. `number` and `front` are accepted
        and ignored: the queue is fair."""
        given = _object(request.data)
        prompt = given.get("prompt")
        if not isinstance(prompt, dict) or not prompt:
            raise PromptRefused("no_prompt", "No prompt provided")
        execution_id = _prompt_id(given.get("prompt_id"))
        try:
            _submit(user_of(request), prompt, given, execution_id)
        except IntegrityError:
            if selectors.by_id(execution_id) is None:
                raise
            raise PromptRefused("invalid_prompt_id", "This prompt_id is already in use") from None
        return Response({"prompt_id": str(execution_id), "number": 0, "node_errors": {}})


def _submit(user: User, prompt: dict[str, Any], given: dict[str, Any], execution_id: UUID) -> None:
    extra, targets = given.get("extra_data") or {}, given.get("partial_execution_targets") or []
    if not isinstance(extra, dict):
        raise ValidationFailed.of("extra_data", "'extra_data' must be an object", "INVALID_TYPE")
    if keys := [name for name in extra if name.endswith("_comfy_org") and name not in partner_keys.NAMES]:
        # They might be secrets, and would be stored with the execution in plain text.
        known = ", ".join(partner_keys.NAMES)
        raise ValidationFailed.of(f"extra_data.{keys[0][:100]}", f"Of these keys only {known} are accepted")
    if not isinstance(targets, list) or not all(isinstance(each, str) for each in targets):
        raise ValidationFailed.of("partial_execution_targets", "It must be a list of node ids")
    if (client_id := _client_id(given)) is not None:
        extra = {**extra, "client_id": client_id}  # as in ComfyUI
    submission.submit(
        user=user,
        workflow={"prompt": files.with_file_ids(prompt)},
        priority=Priority.NORMAL,
        timeout_minutes=settings.DEFAULT_TIMEOUT_MINUTES,
        metadata={},
        extra_data=extra,
        partial_execution_targets=targets,
        execution_id=execution_id,
    )


def _client_id(given: dict[str, Any]) -> str | None:
    client_id = given.get("client_id")
    if client_id is None:
        return None
    if not isinstance(client_id, str) or len(client_id) > LONGEST_CLIENT_ID:
        message = f"It must be a string of at most {LONGEST_CLIENT_ID} characters"
        raise ValidationFailed.of("client_id", message)
    return client_id


class QueueView(ComfyUIView):
    def get(self, request: Request) -> Response:
        """The running and waiting prompts, in one query, so that none is missed while they change state."""
        rows = list(_alive(user_of(request)).order_by("created_at", "id")[:SHOWN])
        prompts = _prompts(rows)
        shown: dict[str, list[Any]] = {"queue_running": [], "queue_pending": []}
        for number, each in enumerate(rows):
            name = "queue_running" if each.status == Status.RUNNING else "queue_pending"
            shown[name].append(representations.queue_item(each, number, prompts.get(each.id, {})))
        return Response(shown)

    def post(self, request: Request) -> Response:
        """Cancel the given prompts, or with `clear` all waiting ones."""
        user, given = user_of(request), _object(request.data)
        waiting = _alive(user).filter(status=Status.PENDING)
        if given.get("clear") is not True:
            waiting = waiting.filter(id__in=_ids(given))
        _cancel(waiting)
        return Response()


class InterruptView(ComfyUIView):
    def post(self, request: Request) -> Response:
        """Cancel the named running prompt, or all running prompts of the user.

        The websocket may announce the start before the row records it, so a prompt that has been posted to
        ComfyUI counts as running.
        """
        alive, running = _alive(user_of(request)), Q(status=Status.RUNNING)
        given = request.data if isinstance(request.data, dict) else {}
        if given.get("prompt_id") is not None:
            named = alive.filter(id__in=_ids({"delete": [given["prompt_id"]]}))
            _cancel(named.filter(running | Q(posted_at__isnull=False)))
        elif alive.filter(running).exists():
            _cancel(alive.filter(running))
        else:
            _cancel(alive.filter(posted_at__isnull=False).order_by("posted_at")[:1])
        return Response()


class HistoryView(ComfyUIView):
    def get(self, request: Request) -> Response:
        """The most recent ended prompts, oldest first. `prompt_id` selects one; `max_items` is at most 200;
        `offset` counts from the oldest."""
        query = request.query_params
        if query.get("prompt_id"):
            return Response(_one(user_of(request), query["prompt_id"]))
        limit = min(_number(query.get("max_items"), otherwise=HISTORY), LONGEST_HISTORY)
        offset, ended = _number(query.get("offset"), otherwise=-1), _ended(user_of(request))
        if offset >= 0:
            rows = list(ended.order_by("created_at", "id")[offset : offset + limit])
        else:
            rows = list(ended.order_by("-created_at", "-id")[:limit])[::-1]
        return Response(representations.history(rows, _prompts(rows[::-1])))

    def post(self, request: Request) -> Response:
        """Delete the given prompts and their files. `clear` only hides those that have ended."""
        given = _object(request.data)
        if given.get("clear") is True:
            User.objects.filter(id=user_of(request).pk).update(history_cleared_at=Now())
        for each in _ended(user_of(request)).filter(id__in=_ids(given)):
            commands.delete(execution=each)
        return Response()


class OneHistoryView(ComfyUIView):
    def get(self, request: Request, prompt_id: str) -> Response:
        return Response(_one(user_of(request), prompt_id))


def _one(user: User, prompt_id: str) -> dict[str, Any]:
    """Empty if it has not ended or is not the user's, as in ComfyUI."""
    try:
        found = selectors.execution_of(user=user, execution_id=prompt_id)
    except NotFound:
        return {}
    if found.status not in TERMINAL or not is_shown(found, user):
        return {}
    return representations.history([found], selectors.prompts([found.id], most_bytes=LONGEST_PROMPT))


def _prompts(rows: Sequence[Execution]) -> dict[UUID, dict[str, Any]]:
    """Of the first rows, as many as one request may have: a list of the largest would fill the memory."""
    return selectors.prompts([each.id for each in rows], most_bytes=settings.MAX_BODY_BYTES)


def is_shown(execution: Execution, user: User) -> bool:
    cleared, ended = user.history_cleared_at, execution.completed_at
    return cleared is None or ended is None or ended > cleared


def _alive(user: User) -> QuerySet[Execution]:
    return selectors.executions_of(user=user).filter(status__in=ALIVE)


def _ended(user: User) -> QuerySet[Execution]:
    ended = selectors.executions_of(user=user).filter(status__in=TERMINAL)
    if user.history_cleared_at is not None:
        ended = ended.filter(completed_at__gt=user.history_cleared_at)
    return ended


def cancel(user: User, ids: Sequence[UUID]) -> bool:
    """Cancel those of the user's that wait or run; return whether there were any."""
    return _cancel(_alive(user).filter(id__in=ids)) > 0


def _cancel(rows: QuerySet[Execution]) -> int:
    """Return the number cancelled."""
    cancelled = 0
    for each in list(rows):  # bounded by the user's quota of waiting executions
        try:
            commands.cancel(execution=each)
            cancelled += 1
        except Conflict:
            pass  # it has ended in the meantime
    return cancelled


def _object(data: Any) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ValidationFailed.of("body", "The body must be a JSON object", "INVALID_TYPE")
    return data


def _ids(given: dict[str, Any]) -> list[UUID]:
    """The ids in `delete` that are valid UUIDs."""
    named = given.get("delete") or []
    if not isinstance(named, list) or len(named) > IDS:
        raise ValidationFailed.of("delete", f"'delete' must be a list of at most {IDS} ids")
    return uuids(named)


def uuids(texts: Sequence[Any]) -> list[UUID]:
    """The valid UUIDs among the texts."""
    return [found for each in texts if (found := _uuid(each)) is not None]


def _prompt_id(given: Any) -> UUID:
    if given is None:
        return uuid7()
    found = _uuid(given)
    if found is None or str(found) != given:
        raise PromptRefused("invalid_prompt_id", "The prompt_id must be a canonical UUID in lower case")
    return found


def _uuid(text: Any) -> UUID | None:
    try:
        return UUID(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _number(text: str | None, *, otherwise: int) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 9 else otherwise
