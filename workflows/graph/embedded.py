"""Extracts the workflow from a file: JSON, or an image in which ComfyUI embedded its workflow."""

from __future__ import annotations

import json
import re
from typing import Any

from rest_framework.exceptions import ParseError

from accounts.models import User
from comfyserve.api.errors import NotFound, ValidationFailed
from comfyserve.api.parsers import loads
from files import decoding, storing
from files import queries as file_queries

from .parsing import MARK_INPUT

FILE_ID = re.compile(r"file_[0-9A-Za-z]+")
LARGEST = 64 * 1024 * 1024  # largest file searched, in bytes
LONGEST = 10 * 1024 * 1024  # largest workflow, in bytes


def workflow_of(file_id: str, *, user: User, path: str) -> Any:
    """Return the workflow in the user's file: the prompt that made an image, else the editor's file.

    Raises ValidationFailed if there is no such file or it contains no workflow, and StorageUnavailable.
    """
    if file_id.lstrip().startswith("{"):
        message = f"Field '{path}' is a text with JSON in it; send the object itself, not a string"
        raise ValidationFailed.of(path, message, "INVALID_TYPE")
    if not FILE_ID.fullmatch(file_id):
        raise ValidationFailed.of(
            path, f"Field '{path}' must be a workflow, or the id of a file with one inside"
        )
    try:
        file = file_queries.file_of(file_id=file_id, user=user)
    except NotFound as exc:
        message = f"There is no file {file_id[:100]}, or it has expired"
        raise ValidationFailed.of(path, message, "FILE_NOT_FOUND") from exc
    if file.size > LARGEST:
        raise ValidationFailed.of(
            path, f"The file is too large to look for a workflow in it; at most {LARGEST} bytes"
        )
    with storing.opened(file) as reader:
        content = reader.read()
    found = _read(content, path)
    if not isinstance(found, dict):
        raise ValidationFailed.of(
            path, f"There is no workflow inside the file '{file.filename}'", "NO_WORKFLOW"
        )
    return found


def _read(content: bytes, path: str) -> Any:
    try:
        texts = decoding.texts(content)
    except decoding.Undecodable as exc:
        raise ValidationFailed.of(path, str(exc), "UNDECODABLE") from exc
    if texts is None:
        return _parsed(content, path)
    if text := texts.get("prompt"):
        return _unmarked(_parsed(text.encode(), path))
    text = texts.get("workflow")
    return _parsed(text.encode(), path) if text else None


def _parsed(content: bytes, path: str) -> Any:
    if len(content) > LONGEST:
        raise ValidationFailed.of(path, f"The workflow inside the file is larger than {LONGEST} bytes")
    try:
        return loads(_without_nan(content))
    except ParseError as exc:
        raise ValidationFailed.of(path, f"The file holds no workflow that can be read: {exc.detail}") from exc


def _without_nan(content: bytes) -> bytes:
    """Replace NaN and Infinity by null: Python writes them into images, but they are not valid JSON."""
    if b"NaN" not in content and b"Infinity" not in content:
        return content
    try:
        return json.dumps(json.loads(content, parse_constant=lambda _: None)).encode()
    except (ValueError, RecursionError):
        return content  # the caller reports it


def _unmarked(prompt: Any) -> Any:
    """Remove what `parsing.mark_outputs` added to a prompt that ran here."""
    for node in prompt.values() if isinstance(prompt, dict) else ():
        inputs = node.get("inputs") if isinstance(node, dict) else None
        if not isinstance(inputs, dict):
            continue
        mark, prefix = inputs.pop(MARK_INPUT, None), inputs.get("filename_prefix")
        if isinstance(mark, str) and isinstance(prefix, str):
            inputs["filename_prefix"] = prefix.removeprefix(f"{mark}/")
    return prompt
