"""Files that a workflow uses as input: the value of an input is a `file_id`, an http(s) URL or a `data:` URL.

They are validated at submission and marked in the stored prompt, so that a worker finds them without a
lookup. The workflow as submitted is stored unchanged; a retry starts from it.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes
from uuid import UUID

from accounts.models import User
from comfyserve.api.errors import Detail, ValidationFailed
from comfyserve.outbound import client
from files import pins, storing, types
from files import queries as file_queries
from files.incoming import Incoming
from files.models import File

from . import file_inputs, media_kinds, nested_inputs, node_classes, node_info
from .parsing import Graph, Prompt

MARK = "comfyserve-input:"  # precedes a file_id or URL in a stored prompt
FILE_ID = re.compile(r"file_[0-9A-Za-z]+")
ADDRESS = re.compile(r"https?://", re.IGNORECASE)
DATA = re.compile(r"data:", re.IGNORECASE)


@dataclass(frozen=True)
class Use:
    """An input whose value refers to a file."""

    node_id: str
    class_type: str
    name: str
    value: str
    path: str  # of the value in the submitted workflow


@dataclass
class Taken:
    """The prompt to store, and the files it needs with the path of each reference."""

    prompt: Prompt
    files: dict[str, str] = field(default_factory=dict)  # file_id -> path


Lent = frozenset[str]  # ids of files that came with the workflow, whoever owns them


def take_all(graphs: Sequence[tuple[Graph, Lent]], *, user: User) -> list[Taken]:
    """Validate all files that the workflows refer to, and store those sent inline.

    Raises ValidationFailed with all errors, each under its path, and StorageUnavailable. Must not be called
    in a transaction: storing takes time. Identical `data:` URLs are stored once.
    """
    known: dict[str, frozenset[str] | None] = {}
    uses = [list(_uses(graph, known)) for graph, _ in graphs]
    if not any(uses):
        return [Taken(graph.prompt) for graph, _ in graphs]
    every = [(use, lent) for own, (_, lent) in zip(uses, graphs, strict=True) for use in own]
    wanted = _wanted([use for use, _ in every])
    wrong = [*_mistaken_files(every, wanted, user), *_mistaken_addresses([use for use, _ in every])]
    if wrong:
        raise ValidationFailed(wrong)
    stored: dict[str, str] = {}
    for use, _ in every:
        if DATA.match(use.value) and use.value not in stored:
            stored[use.value] = store_data_url(use.value, wanted=wanted[use], path=use.path, user=user)
    return [_taken(graph, own, stored) for (graph, _), own in zip(graphs, uses, strict=True)]


def _taken(graph: Graph, uses: Sequence[Use], stored: dict[str, str]) -> Taken:
    taken = Taken({node_id: {**node} for node_id, node in graph.prompt.items()} if uses else graph.prompt)
    for use in uses:
        value = stored.get(use.value, use.value)
        node = taken.prompt[use.node_id]
        node["inputs"] = nested_inputs.with_value(node["inputs"], use.name, MARK + value)
        if FILE_ID.fullmatch(value):
            taken.files.setdefault(value, use.path)
    return taken


def mistakes(graph: Graph, *, user: User) -> list[Detail]:
    """The errors `take_all` would report, without storing anything; `data:` URLs are only decoded."""
    uses = list(_uses(graph, {}))
    found = [
        *_mistaken_files([(use, frozenset()) for use in uses], _wanted(uses), user),
        *_mistaken_addresses(uses),
    ]
    for use in uses:
        if DATA.match(use.value):
            try:
                _decoded(use.value, use.path)
            except ValidationFailed as exc:
                found += exc.details
    return found


def _wanted(uses: Sequence[Use]) -> dict[Use, tuple[str, ...]]:
    """The content type prefixes that each input accepts."""
    tables = node_info.everywhere() if uses else []
    return {use: media_kinds.wanted(use.class_type, use.name, tables) for use in uses}


def names_file(value: str) -> bool:
    """Whether the value has the form of a file_id, an http(s) URL or a `data:` URL."""
    return _could_be(value)


def pin_all(holders: Sequence[tuple[UUID, Taken]]) -> None:
    """Pin each execution's files until it has ended, in the transaction that creates the executions.

    Raises ValidationFailed if a file has just been deleted.
    """
    wanted = {holder: taken.files for holder, taken in holders if taken.files}
    if not wanted:
        return
    found = pins.pin_all(wanted)
    gone = {
        path: _missing(file_id, path)
        for files in wanted.values()
        for file_id, path in files.items()
        if file_id not in found
    }
    if gone:
        raise ValidationFailed(gone.values())


# -- finding file references -------------------------------------------------------------------------
def _uses(graph: Graph, known: dict[str, frozenset[str] | None]) -> Iterator[Use]:
    """Yield the file references in graph order. Queries the database only if a value could be a file, once
    for each class that is not in `known` yet.
    """
    for node_id, node in graph.prompt.items():
        for name, given in nested_inputs.texts_in(node["inputs"]):
            value = given.strip()
            if not _could_be(value):
                continue
            path = _path_of(graph, node_id, name)
            if value.startswith(MARK):
                raise ValidationFailed.of(path, f"A value may not begin with '{MARK}'")
            class_type = node["class_type"]
            if class_type not in known:
                known[class_type] = file_inputs.taking_files(class_type)
            if _takes(known[class_type], class_type, name, value):
                yield Use(node_id, class_type, name, value, path)


def _path_of(graph: Graph, node_id: str, name: str) -> str:
    outer = nested_inputs.outer_of(graph.prompt[node_id]["inputs"], name)
    return graph.paths[node_id, outer] + name[len(outer) :]


def _could_be(value: str) -> bool:
    return bool(
        FILE_ID.fullmatch(value) or ADDRESS.match(value) or DATA.match(value) or value.startswith(MARK)
    )


def _takes(known: frozenset[str] | None, class_type: str, name: str, value: str) -> bool:
    """Whether the input takes a file. For unknown classes, only file_ids and the usual inputs count."""
    if name in node_classes.NESTED.get(class_type, ()):
        return True
    if known is not None:
        return name in known
    return bool(FILE_ID.fullmatch(value)) or name in file_inputs.USUAL.get(class_type, ())


# -- validation --------------------------------------------------------------------------------------
def _mistaken_files(
    uses: Sequence[tuple[Use, Lent]], wanted: Mapping[Use, tuple[str, ...]], user: User
) -> Iterator[Detail]:
    ids = {use.value for use, _ in uses if FILE_ID.fullmatch(use.value)}
    if not ids:
        return
    shown = {file.pk: file for file in file_queries.alive().filter(user=user, id__in=ids)}
    # A lent file is pinned by its lender: it may have expired but still exists.
    lent = File.objects.in_bulk(ids - shown.keys())
    for use, may_use in uses:
        if use.value not in ids:
            continue
        file = shown.get(use.value) or (lent.get(use.value) if use.value in may_use else None)
        if file is None:
            yield _missing(use.value, use.path)
        elif wanted[use] and (message := _unusable(file, wanted[use])):
            yield _wrong_type(use.path, message)


def _unusable(file: File, wanted: tuple[str, ...]) -> str | None:
    content_type = file.content_type
    refusal = media_kinds.refusal(content_type, wanted)
    return refusal or media_kinds.damaged(content_type, measured=file.width is not None)


def _wrong_type(path: str, message: str) -> Detail:
    return Detail("UNSUPPORTED_TYPE", message[:1].upper() + message[1:], path)


def _missing(file_id: str, path: str) -> Detail:
    return Detail("FILE_NOT_FOUND", f"There is no file {file_id[:100]}, or it has expired", path)


def _mistaken_addresses(uses: Sequence[Use]) -> Iterator[Detail]:
    """Does not resolve DNS: the worker does when it fetches, and a submission should not wait."""
    for use in uses:
        if ADDRESS.match(use.value):
            try:
                client.check(use.value, resolve=False)
            except client.Refused as exc:
                yield Detail("INVALID_URL", exc.message, use.path)


# -- inline files --------------------------------------------------------------------------------------
def store_data_url(value: str, *, wanted: tuple[str, ...], path: str, user: User) -> str:
    """Store the content of a `data:` URL; return its file_id. `wanted` are content type prefixes; empty
    accepts any media.

    Raises ValidationFailed under `path` if it is unusable.
    """
    content = _decoded(value, path)
    message = media_kinds.refusal(types.of_content(content), wanted or types.MEDIA)
    if message:
        raise ValidationFailed([_wrong_type(path, message)])
    content_type = types.of_content(content)
    with Incoming() as incoming:
        incoming.write(content)
        try:
            name = f"input{types.extension_of(content_type)}"
            file = storing.accept(incoming, user=user, filename=name)
        except ValidationFailed as exc:
            raise ValidationFailed([Detail(d.code, d.message, path) for d in exc.details]) from exc
    if message := media_kinds.damaged(content_type, measured=file.width is not None):
        pins.delete(file)
        raise ValidationFailed([_wrong_type(path, message)])
    return file.id


def _decoded(value: str, path: str) -> bytes:
    head, comma, body = value.partition(",")
    try:
        if not comma:
            raise ValueError("no comma")
        raw = unquote_to_bytes(body)
        if not head.lower().endswith(";base64"):
            return raw
        return base64.b64decode(re.sub(rb"\s", b"", raw), validate=True)
    except (ValueError, binascii.Error) as exc:
        raise ValidationFailed.of(path, "This data: URL cannot be read", "INVALID_DATA_URL") from exc


# -- used by workers -----------------------------------------------------------------------------------
def marked(prompt: Prompt) -> Iterator[tuple[str, str, str]]:
    """Yield (node id, input, file_id or URL) of the files to be placed on its ComfyUI."""
    for node_id, node in prompt.items():
        for name, value in nested_inputs.texts_in(node["inputs"]):
            if value.startswith(MARK):
                yield node_id, name, value.removeprefix(MARK)


def filled(prompt: Prompt, names: dict[tuple[str, str], str]) -> Prompt:
    """Return the prompt with the files' names on ComfyUI, keyed by (node id, input)."""
    done: dict[str, Any] = dict(prompt)
    for (node_id, name), value in names.items():
        node = done[node_id]
        done[node_id] = {**node, "inputs": nested_inputs.with_value(node["inputs"], name, value)}
    return done


def as_given(prompt: Prompt) -> Prompt:
    """The stored prompt in a form its user could resubmit: embedded in images as metadata."""
    return filled(prompt, {(node_id, name): value for node_id, name, value in marked(prompt)})
