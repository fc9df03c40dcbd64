"""Runs apps: named values become a graph in the queue. Views call `run` and `run_many`."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Unpack

from accounts.models import User
from comfyserve.api.errors import Detail, ValidationFailed
from comfyserve.near_names import did_you_mean, near
from workflows.graph import input_files, parsing
from workflows.models import Batch
from workflows.queue import batches, submission
from workflows.queue.submission import Accepted, Work

from . import catalog, parameters
from .catalog import Found
from .parameters import LARGEST_SEED, Parameter


@dataclass(frozen=True)
class Run:
    """What was queued: the version and all values, including the drawn ones."""

    accepted: Accepted
    found: Found
    inputs: dict[str, Any]


def run(
    *,
    user: User,
    app: str,
    inputs: Mapping[str, Any],
    output: Mapping[str, Any] | None = None,
    **options: Unpack[submission.Options],
) -> Run:
    """Queue a run of the app. `app` is its address: see `catalog.find`.

    A webhook must already be checked. Raises NotFound, ValidationFailed (each error under `inputs.<name>`),
    LimitExceeded and Unavailable, as submitting a workflow does.
    """
    found = catalog.find(user=user, address=app)
    values = _values(found, inputs, user=user, path="inputs")
    accepted = submission.submit_work(
        user=user,
        work=replace(work_of(found, values, path="inputs"), output=output or {}),
        **options,
    )
    return Run(accepted, found, values)


def run_many(
    *,
    user: User,
    app: str,
    inputs: Sequence[Mapping[str, Any]],
    path: str = "inputs",
    output: Mapping[str, Any] | None = None,
    **options: Unpack[submission.Options],
) -> Batch:
    """The same for many at once, all or none; errors are under `<path>.<number>.<name>`."""
    found = catalog.find(user=user, address=app)
    mistakes: list[Detail] = []
    works: list[Work] = []
    for i, given in enumerate(inputs):
        try:
            values = _values(found, given, user=user, path=f"{path}.{i}")
            works.append(work_of(found, values, path=f"{path}.{i}"))
        except ValidationFailed as exc:
            mistakes += exc.details
        if len(mistakes) >= batches.MISTAKES_SHOWN:
            break
    if mistakes:
        raise ValidationFailed(mistakes[: batches.MISTAKES_SHOWN])
    return batches.submit(
        user=user,
        works=works,
        app=found.app.address,
        output=output,
        **options,
    )


def work_of(found: Found, values: Mapping[str, Any], *, path: str) -> Work:
    """The version's graph with these values; errors are reported by the input's name."""
    prompt = {
        node_id: {**node, "inputs": dict(node["inputs"])} for node_id, node in found.version.prompt.items()
    }
    paths = {(node_id, name): "app" for node_id, node in prompt.items() for name in node["inputs"]}
    for each in found.inputs:
        if each.name in values:
            prompt[each.node]["inputs"][each.input] = values[each.name]
            paths[each.node, each.input] = f"{path}.{each.name}"
    graph = parsing.Graph(prompt=prompt, paths=paths, node_paths=dict.fromkeys(prompt, "app"))
    lent = frozenset(found.version.files)
    return Work(prompt, graph, app=_kept(found), inputs=dict(values), lent=lent)


def _kept(found: Found) -> dict[str, Any]:
    """What an execution stores about its app, so that its result stays complete if the app is deleted."""
    return {
        "name": found.app.address,
        "version": found.version.number,
        "outputs": {each.name: each.node for each in found.outputs},
        "files": found.version.files,
        "hidden_from": None if found.app.show_workflow else found.app.owner_id,
    }


# -- values ------------------------------------------------------------------------------------------------
def _values(found: Found, given: Any, *, user: User, path: str) -> dict[str, Any]:
    """Each input's value: the given one, its default, or a random one."""
    if not isinstance(given, Mapping):
        raise ValidationFailed.of(path, f"'{path}' must be an object of values by name", "INVALID_TYPE")
    known = found.inputs
    mistakes = list(_unknown(known, given, path))
    values: dict[str, Any] = {}
    for each in known:
        value = given.get(each.name)
        if value is None:
            value = None if each.required else _draw(each) if each.is_seed else each.default
        if value is None:
            if each.required:
                where = f"{path}.{each.name}"
                mistakes.append(Detail("REQUIRED_FIELD", f"Field '{where}' is required", where))
            continue
        values[each.name] = value
        if given.get(each.name) is not None:
            choices = parameters.choices_of(each, found.version.prompt)
            wrong = parameters.mistake(each, value, choices=choices, path=f"{path}.{each.name}")
            mistakes += [wrong] if wrong else []
    if mistakes:
        raise ValidationFailed(mistakes)
    return {each.name: _stored(each, values[each.name], user, path) for each in known if each.name in values}


def _unknown(known: Sequence[Parameter], given: Mapping[str, Any], path: str) -> Iterator[Detail]:
    names = [each.name for each in known]
    for name in given.keys() - set(names):
        hint = did_you_mean(near(str(name), names)) or f"; it has: {', '.join(names) or 'none'}"
        message = f"The app has no input '{str(name)[:100]}'{hint}"
        yield Detail("UNKNOWN_FIELD", message[:1000], f"{path}.{str(name)[:100]}")


def _draw(each: Parameter) -> int:
    low = int(each.minimum) if each.minimum is not None else 0
    high = min(int(each.maximum) if each.maximum is not None else LARGEST_SEED, LARGEST_SEED)
    return low + secrets.randbelow(max(high - low, 0) + 1)


def _stored(each: Parameter, value: Any, user: User, path: str) -> Any:
    """`data:` URLs are stored as files first, as the values are stored with the execution."""
    if each.type in parameters.FILES and isinstance(value, str) and input_files.DATA.match(value):
        return input_files.store_data_url(
            value, wanted=parameters.MEDIA.get(each.type, ()), path=f"{path}.{each.name}", user=user
        )
    return value
