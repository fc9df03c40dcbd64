"""Jobs are our executions: submit, list, read, cancel."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from django.conf import settings
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.idempotent_views import idempotent
from accounts.models import User
from apps_catalog import running
from comfyserve.api import addresses, paging
from comfyserve.api.errors import Conflict, Forbidden, ValidationFailed
from files import queries as file_queries
from workflows.api.serializers import ExtraData
from workflows.api.views import user_of
from workflows.graph import formats
from workflows.models import Priority
from workflows.presentation import selectors
from workflows.queue import commands, submission

from . import representations
from .errors import ComfyError, ComfyView

FIELDS = ("workflow", "extra_data", "metadata", "inputs")
PAIRS, LONGEST_KEY, LONGEST_VALUE = 16, 64, 512
FILTER = re.compile(r"metadata\[(.*)\]", re.DOTALL)
LIMIT, MAX_LIMIT = 20, 100
REFERENCE = "core/ASSET"
DEEPEST = 64


class JobsView(ComfyView):
    def check_replay(self, shown: dict[str, Any]) -> None:
        if selectors.by_id(UUID(shown["id"])) is None:
            raise Conflict(f"The job {shown['id']} of this Idempotency-Key was deleted; use a new key")

    @idempotent
    def post(self, request: Request) -> Response:
        """Submit a workflow, or an app with values for its inputs."""
        user = user_of(request)
        accepted = _submit(user, _checked(request.data))
        execution = selectors.by_id(accepted.execution.id) or accepted.execution
        shown = representations.job(execution, base=addresses.base_of(request._request))
        return Response(shown, status=201, headers={"Location": shown["urls"]["self"]})

    def get(self, request: Request) -> Response:
        """One page of the user's jobs, newest first."""
        query = request.query_params
        wanted = {
            str(found[1]): str(value) for name, value in query.items() if (found := FILTER.fullmatch(name))
        }
        if len(wanted) > PAIRS:
            raise ComfyError(422, "invalid_metadata_filter", f"At most {PAIRS} labels can be asked for")
        limit = _limit(query.get("limit"))
        user, cursor = user_of(request), query.get("cursor")
        try:
            if wanted:
                page = selectors.labelled(user=user, labels=wanted, limit=limit, cursor=cursor)
            else:
                page = list(paging.after(selectors.executions_of(user=user), cursor)[:limit])
        except ValidationFailed as exc:
            raise ComfyError(422, "invalid_cursor", exc.details[0].message) from exc
        following = paging.next_headers(page, limit=limit).get("X-Next-Cursor")
        shown: dict[str, Any] = {"jobs": [representations.summary(each) for each in page]}
        return Response(shown | ({"next_cursor": following} if following else {}))


class JobView(ComfyView):
    def get(self, request: Request, execution_id: str) -> Response:
        execution = selectors.execution_of(user=user_of(request), execution_id=execution_id)
        return Response(representations.job(execution, base=addresses.base_of(request._request)))


class CancelView(ComfyView):
    def post(self, request: Request, execution_id: str) -> Response:
        """Cancelling a job that has ended changes nothing and is not an error."""
        user = user_of(request)
        execution = selectors.execution_of(user=user, execution_id=execution_id)
        try:
            commands.cancel(execution=execution)
        except Conflict:
            pass
        execution = selectors.execution_of(user=user, execution_id=execution_id)
        return Response(representations.job(execution, base=addresses.base_of(request._request)))


class WorkflowView(ComfyView):
    def get(self, request: Request, execution_id: str) -> Response:
        """As submitted, in the editor's format or the API format."""
        execution = selectors.execution_of(user=user_of(request), execution_id=execution_id, with_graph=True)
        hidden_from = (execution.app or {}).get("hidden_from")
        if hidden_from not in (None, execution.user_id):
            raise Forbidden("The owner of this app does not show its workflow")
        workflow = execution.graph.submitted
        return Response(
            {"workflow": workflow, "format": "save" if formats.is_editor_file(workflow) else "api"}
        )


# -- submitting ------------------------------------------------------------------------------------------
def _checked(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise ValidationFailed.of("workflow", "Field 'workflow' is required", "REQUIRED_FIELD")
    for name in body.keys() - set(FIELDS):
        raise ValidationFailed.of(
            str(name)[:100], f"There is no such field; the fields are {', '.join(FIELDS)}", "UNKNOWN_FIELD"
        )
    if not isinstance(body.get("workflow"), dict | str):
        raise ValidationFailed.of("workflow", "Field 'workflow' is required", "REQUIRED_FIELD")
    _check_extra_data(body.get("extra_data"))
    return {**body, "metadata": _labels(body.get("metadata"))}


def _check_extra_data(extra: Any) -> None:
    """As for a workflow submitted to the REST API."""
    if extra is None:
        return
    if not isinstance(extra, dict) or not isinstance(extra.get("extra_pnginfo", {}), dict):
        raise ValidationFailed.of("extra_data", "'extra_data' must be an object of objects", "INVALID_TYPE")
    if extra.keys() - set(ExtraData.KNOWN):
        known = ", ".join(ExtraData.KNOWN)
        message = f"Of 'extra_data' only {known} are accepted"
        raise ComfyError(422, "extra_data_not_supported", message)


def _labels(given: Any) -> dict[str, str]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise ComfyError(422, "metadata_invalid", "'metadata' must be an object of strings")
    if len(given) > PAIRS:
        raise ComfyError(
            422, "metadata_invalid", f"'metadata' has {len(given)} pairs; at most {PAIRS} are allowed"
        )
    for key, value in given.items():
        if not 0 < len(key) <= LONGEST_KEY or "\x00" in key:
            raise ComfyError(422, "metadata_invalid", f"A key has 1 to {LONGEST_KEY} characters: {key[:100]}")
        if not isinstance(value, str) or len(value) > LONGEST_VALUE or "\x00" in value:
            message = f"The value of '{key}' must be a string of at most {LONGEST_VALUE} characters"
            raise ComfyError(422, "metadata_invalid", message)
    return given


def _submit(user: User, given: Mapping[str, Any]) -> submission.Accepted:
    """With `inputs`, `workflow` is the address of an app."""
    if given.get("inputs") is not None:
        if not isinstance(given["workflow"], str):
            raise ValidationFailed.of("workflow", "With 'inputs', 'workflow' is the name of an app")
        if given.get("extra_data"):
            raise ValidationFailed.of("extra_data", "'extra_data' cannot be given with 'inputs'")
        inputs = _with_files(given["inputs"], user)
        return running.run(
            user=user, app=given["workflow"], inputs=inputs, metadata=given["metadata"]
        ).accepted
    return submission.submit(
        user=user,
        workflow=_with_files(given["workflow"], user),
        priority=Priority.NORMAL,
        timeout_minutes=settings.DEFAULT_TIMEOUT_MINUTES,
        metadata=given["metadata"],
        extra_data=given.get("extra_data"),
    )


def _with_files(value: Any, user: User) -> Any:
    """The same with each asset reference replaced by the file id; the user must own the file."""
    found: set[str] = set()
    replaced = _replaced(value, found, 0)
    known = set(file_queries.alive().filter(user=user, id__in=found).values_list("id", flat=True))
    for missing in sorted(found - known):
        raise ComfyError(422, "missing_asset", f"You have no asset {missing[:100]}")
    return replaced


def _replaced(value: Any, found: set[str], depth: int) -> Any:
    if depth > DEEPEST:
        raise ValidationFailed.of("workflow", "The workflow is nested too deeply")
    if isinstance(value, list):
        return [_replaced(each, found, depth + 1) for each in value]
    if not isinstance(value, dict):
        return value
    if value.get("__type") != REFERENCE:
        return {key: _replaced(each, found, depth + 1) for key, each in value.items()}
    info = value.get("info")
    file_id = info.get("id") if isinstance(info, dict) else None
    if not isinstance(file_id, str) or not file_id:
        raise ComfyError(422, "missing_asset", "An asset reference must have the asset's id at info.id")
    found.add(file_id)
    return file_id


def _limit(text: str | None) -> int:
    if text is None:
        return LIMIT
    if not text.isascii() or not text.isdigit() or len(text) > 9 or not 1 <= int(text) <= MAX_LIMIT:
        raise ValidationFailed.of("limit", f"'limit' must be a number from 1 to {MAX_LIMIT}")
    return int(text)
