"""Checks a workflow without running it: validation errors, capable workers, estimated duration.

Contacts no worker: it relies on what workers last reported. The state of an offline worker may have changed
since, so results based only on offline workers are never `certain`. Submission does not depend on any of
this.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings

from accounts.models import User
from comfyserve.api.errors import Detail, ValidationFailed
from comfyserve.near_names import did_you_mean
from comfyui.types import InputError, NodeErrors
from models_registry import usage
from workflows.fleet import registry
from workflows.graph import (
    formats,
    input_files,
    links,
    node_info,
    node_policy,
    object_info,
    parsing,
    refusals,
    validation,
)
from workflows.graph.parsing import Graph, ModelUse
from workflows.graph.validation import Verdict
from workflows.models import Worker

from . import scheduling


@dataclass(frozen=True)
class Problem:
    """`certain`: ComfyUI would definitely report it too. The optional fields locate it, as far as known."""

    code: str
    message: str
    field: str | None = None
    certain: bool = True
    node_id: str | None = None
    class_type: str | None = None
    input: str | None = None
    value: Any = None
    allowed: list[Any] | None = None
    near: list[str] = dataclasses.field(default_factory=list)


@dataclass(frozen=True)
class Output:
    node_id: str
    title: str
    class_type: str
    will_run: bool


@dataclass(frozen=True)
class ModelPlace:
    name: str
    type: str
    workers: list[str]  # workers that have it
    near: list[str]  # similar names, if no worker has it


@dataclass(frozen=True)
class Candidate:
    """A worker and whether it could run the workflow. `lacks` lists missing node classes and models."""

    name: str
    alive: bool
    heard_at: datetime
    can_run: bool
    certain: bool
    lacks: list[str]


@dataclass(frozen=True)
class Report:
    """`valid` is None if no worker has reported its nodes. If not `certain`, ComfyUI may decide otherwise."""

    valid: bool | None
    certain: bool
    problems: list[Problem] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)
    outputs: list[Output] = dataclasses.field(default_factory=list)
    models: list[ModelPlace] = dataclasses.field(default_factory=list)
    workers: list[Candidate] = dataclasses.field(default_factory=list)
    estimated_duration: float | None = None


@dataclass(frozen=True)
class _Judged:
    worker: Worker
    alive: bool
    verdict: Verdict


def check(*, user: User, workflow: Any) -> Report:
    """Check the workflow; stores nothing and starts nothing. Raises Unavailable as submission does."""
    try:
        reading = formats.read(workflow, user=user, max_nodes=settings.MAX_NODES)
    except ValidationFailed as exc:
        return Report(valid=False, certain=True, problems=[_of_detail(each) for each in exc.details])
    graph = reading.graph
    structural = [
        *links.mistakes(graph, node_info.everywhere()),
        *node_policy.mistakes(graph, user_id=user.pk),
        *input_files.mistakes(graph, user=user),
    ]
    if structural:
        problems = [_of_detail(each) for each in structural]
        return Report(valid=False, certain=True, problems=problems, warnings=reading.warnings)
    used = parsing.models_of(graph.prompt)
    places = usage.whereabouts(use.name for use in used)
    judged = _judged(graph, places)
    known, _ = scheduling.estimate(kind=parsing.kind_of(graph.prompt), user_id=user.pk)
    return _report(graph, judged, reading.warnings, _models(used, places), known)


def _judged(graph: Graph, places: Mapping[str, set[str]]) -> list[_Judged]:
    """Each worker's verdict: live workers first, then by number of errors."""
    alive = set(registry.alive().filter(reachable=True).values_list("name", flat=True))
    found = []
    verdicts: dict[tuple[str, frozenset[str]], Verdict] = {}  # shared by identical workers
    for worker in Worker.objects.exclude(object_info=None).order_by("name"):
        has = frozenset(name for name, hosts in places.items() if worker.name in hosts)
        digest = worker.object_info_id or ""
        known = object_info.of(digest)
        if known and (digest, has) not in verdicts:
            verdicts[digest, has] = validation.verdict_of(graph.prompt, known, models=has)
        if known:
            found.append(_Judged(worker, worker.name in alive, verdicts[digest, has]))
    return sorted(found, key=lambda each: (not each.alive, each.verdict.count))


def _report(
    graph: Graph,
    judged: list[_Judged],
    warnings: list[str],
    models: list[ModelPlace],
    known: float | None,
) -> Report:
    if not judged:
        note = "No worker has reported its nodes yet; only the structure was checked"
        return Report(
            None, certain=False, warnings=[*warnings, note], models=models, estimated_duration=known
        )
    best = judged[0]
    if not best.alive:
        note = f"No worker is running; this is based on the last report of {best.worker.name}"
        warnings = [*warnings, note]
    return Report(
        valid=not best.verdict.count and best.verdict.refusal is None,
        certain=best.alive and best.verdict.certain,
        problems=_problems(graph, best),
        warnings=warnings,
        outputs=_outputs(graph, best.verdict),
        models=models,
        workers=[_candidate(each) for each in judged],
        estimated_duration=known,
    )


# -- parts of the report -------------------------------------------------------------------------------
def _of_detail(detail: Detail) -> Problem:
    return Problem(detail.code, detail.message, detail.field)


def _problems(graph: Graph, best: _Judged) -> list[Problem]:
    verdict, classes = best.verdict, node_info.of(best.worker.object_info_id)
    if verdict.unknown:
        return [
            Problem(
                "UNKNOWN_NODE", sentence, f"{graph.node_paths[id_]}.class_type", certain=best.alive,
                node_id=id_, class_type=class_type,
            )
            for id_, (sentence, class_type) in zip(
                verdict.unknown, refusals.unknown_classes(graph.prompt, classes, None), strict=False
            )
        ]  # fmt: skip
    if verdict.refusal == validation.NO_OUTPUTS:
        message = "The workflow has no output node: add one that saves or shows something, such as SaveImage"
        return [Problem("NO_OUTPUTS", message, certain=best.alive)]
    return [
        _problem(graph, errors, error, best, classes)
        for errors in verdict.node_errors.values()
        for error in errors.errors
    ]


def _problem(
    graph: Graph, errors: NodeErrors, error: InputError, best: _Judged, classes: node_info.Classes
) -> Problem:
    explained = refusals.explain(errors, error, graph.prompt, classes)
    place = (errors.node_id, error.input_name or "")
    near = list(explained.near)
    if explained.lacks:
        types = {use.name: use.type for use in parsing.models_of(graph.prompt)}
        near = usage.near(name=explained.lacks, type_=types.get(explained.lacks)) or near
    hint = did_you_mean(near) if explained.lacks else ""
    return Problem(
        code="MODEL_NOT_FOUND" if explained.lacks else error.type.upper(),
        message=f"{explained.sentence}{hint}",
        field=graph.paths.get(place, graph.node_paths[errors.node_id]),
        certain=best.alive and place not in best.verdict.uncertain,
        node_id=errors.node_id,
        class_type=errors.class_type,
        input=error.input_name,
        value=explained.value,
        allowed=list(explained.allowed) if explained.allowed is not None else None,
        near=near,
    )


def _outputs(graph: Graph, verdict: Verdict) -> list[Output]:
    return [
        Output(
            id_, parsing.title_of(graph.prompt, id_), graph.prompt[id_]["class_type"], id_ in verdict.outputs
        )
        for id_ in graph.prompt
        if id_ in verdict.outputs or id_ in verdict.left_out
    ]


def _models(used: Iterable[ModelUse], places: Mapping[str, set[str]]) -> list[ModelPlace]:
    found = []
    for use in used:
        hosts = sorted(places.get(use.name.replace("\\", "/"), ()))
        near = [] if hosts else usage.near(name=use.name, type_=use.type)
        found.append(ModelPlace(use.name, use.type, hosts, near))
    return found


def _candidate(judged: _Judged) -> Candidate:
    verdict = judged.verdict
    lacks = [*verdict.unknown.values()]
    for errors in verdict.node_errors.values():
        lacks += [
            str(error.extra_info.get("received_value"))
            for error in errors.errors
            if error.type == "value_not_in_list" and (errors.node_id, error.input_name) in verdict.uncertain
        ]
    return Candidate(
        name=judged.worker.name,
        alive=judged.alive,
        heard_at=judged.worker.heartbeat_at,
        can_run=verdict.refusal is None and not verdict.count,
        certain=judged.alive and verdict.certain,
        lacks=list(dict.fromkeys(lacks)),
    )
