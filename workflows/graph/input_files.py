"""Files that a workflow takes in: the value of an input is a `file_id`, an http(s) address or a `data:` URL.

At submission they are checked, and marked in the prompt that is kept, so that a worker finds them without
asking anybody. What the user submitted stays as it was; a retry begins from there.
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

MARK = "comfyserve-input:"  # before a file_id or an address, in a prompt that is kept
FILE_ID = re.compile(r"file_[0-9A-Za-z]+")
ADDRESS = re.compile(r"https?://", re.IGNORECASE)
DATA = re.compile(r"data:", re.IGNORECASE)


@dataclass(frozen=True)
class Use:
    """An input whose value names a file."""

    node_id: str
    class_type: str
    name: str
    value: str
    path: str  # of the value in what was sent


@dataclass
class Taken:
    """The prompt to keep, and the files that it needs, with where each is named."""

    prompt: Prompt
    files: dict[str, str] = field(default_factory=dict)  # file_id -> path


Lent = frozenset[str]  # ids of files that the workflow came with, whoever's they are


def take_all(graphs: Sequence[tuple[Graph, Lent]], *, user: User) -> list[Taken]:
    """Check every file that the workflows name, and store those that they bring along.

    Raises ValidationFailed with each mistake under its path, and StorageUnavailable. No transaction should be
    open: storing takes its time. What several bring along in the same words is stored once.
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
    """What `take` would refuse, without storing anything; of a `data:` URL only that it can be read."""
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
    """The kinds of media that each input takes."""
    tables = node_info.everywhere() if uses else []
    return {use: media_kinds.wanted(use.class_type, use.name, tables) for use in uses}


def names_file(value: str) -> bool:
    """Whether it is written as a file of ours, an address, or a `data:` URL."""
    return _could_be(value)


def pin_all(holders: Sequence[tuple[UUID, Taken]]) -> None:
    """Keep the files of each until it has ended. In the transaction that makes the executions;
    ValidationFailed if one has just gone."""
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


# -- finding -----------------------------------------------------------------------------------------
def _uses(graph: Graph, known: dict[str, frozenset[str] | None]) -> Iterator[Use]:
    """In the order of the graph. Asks the database only if some value could be a file, and of each class
    that is not in `known` yet."""
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
    """Where no worker knows the class, a `file_id` is taken for one anywhere; the rest is not guessed."""
    if name in node_classes.NESTED.get(class_type, ()):
        return True
    if known is not None:
        return name in known
    return bool(FILE_ID.fullmatch(value)) or name in file_inputs.USUAL.get(class_type, ())


# -- checking ----------------------------------------------------------------------------------------
def _mistaken_files(
    uses: Sequence[tuple[Use, Lent]], wanted: Mapping[Use, tuple[str, ...]], user: User
) -> Iterator[Detail]:
    ids = {use.value for use, _ in uses if FILE_ID.fullmatch(use.value)}
    if not ids:
        return
    shown = dict(file_queries.alive().filter(user=user, id__in=ids).values_list("id", "content_type"))
    # One that is lent is pinned by whoever lends it: it may have expired, and is there all the same.
    lent = dict(File.objects.filter(id__in=ids - shown.keys()).values_list("id", "content_type"))
    for use, may_use in uses:
        if use.value not in ids:
            continue
        content_type = shown.get(use.value) or (lent.get(use.value) if use.value in may_use else None)
        if content_type is None:
            yield _missing(use.value, use.path)
        elif wanted[use] and (message := media_kinds.refusal(content_type, wanted[use])):
            yield _wrong_type(use.path, message)


def _wrong_type(path: str, message: str) -> Detail:
    return Detail("UNSUPPORTED_TYPE", message[:1].upper() + message[1:], path)


def _missing(file_id: str, path: str) -> Detail:
    return Detail("FILE_NOT_FOUND", f"There is no file {file_id[:100]}, or it has expired", path)


def _mistaken_addresses(uses: Sequence[Use]) -> Iterator[Detail]:
    """DNS is not asked: the worker asks when it fetches, and a submission should not wait."""
    for use in uses:
        if ADDRESS.match(use.value):
            try:
                client.check(use.value, resolve=False)
            except client.Refused as exc:
                yield Detail("INVALID_URL", exc.message, use.path)


# -- what comes along ----------------------------------------------------------------------------------
def store_data_url(value: str, *, wanted: tuple[str, ...], path: str, user: User) -> str:
    """The file_id of what a `data:` URL carries. `wanted` are beginnings of types, empty for any media.

    ValidationFailed under `path` where it can not be used.
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
            return storing.accept(incoming, user=user, filename=name).id
        except ValidationFailed as exc:
            raise ValidationFailed([Detail(d.code, d.message, path) for d in exc.details]) from exc


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
        raise ValidationFailed.of(path, "This data: URL can not be read", "INVALID_DATA_URL") from exc


# -- what a worker finds -------------------------------------------------------------------------------
def marked(prompt: Prompt) -> Iterator[tuple[str, str, str]]:
    """(node id, input, file_id or address) of what is to be placed on its ComfyUI."""
    for node_id, node in prompt.items():
        for name, value in nested_inputs.texts_in(node["inputs"]):
            if value.startswith(MARK):
                yield node_id, name, value.removeprefix(MARK)


def filled(prompt: Prompt, names: dict[tuple[str, str], str]) -> Prompt:
    """The prompt with the names that the files have on ComfyUI, by (node id, input)."""
    done: dict[str, Any] = dict(prompt)
    for (node_id, name), value in names.items():
        node = done[node_id]
        done[node_id] = {**node, "inputs": nested_inputs.with_value(node["inputs"], name, value)}
    return done


def as_given(prompt: Prompt) -> Prompt:
    """The kept prompt as its user could submit it again: what pictures carry as metadata."""
    return filled(prompt, {(node_id, name): value for node_id, name, value in marked(prompt)})
