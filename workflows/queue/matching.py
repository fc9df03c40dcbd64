"""Matches workflows to workers by the nodes and models that each worker has reported.

Evaluated at submission, so that claiming costs nothing. Reports can be outdated: if one is wrong, ComfyUI
rejects the workflow and it is requeued for another worker (`excluded`), as for nodes and models that nobody
reported.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta

from django.conf import settings

from comfyserve.db import rows
from comfyserve.ttl_cache import TtlCache
from models_registry import usage
from workflows.fleet import registry
from workflows.graph import file_inputs, parsing
from workflows.models import Worker

FLEET_SECONDS = 2.0  # maximum age of the cached fleet


@dataclass(frozen=True)
class Suited:
    """`lacking` workers miss something that the `able` ones have; both are empty if there is no choice."""

    lacking: list[str] = field(default_factory=list)
    able: list[str] = field(default_factory=list)


def _fleet() -> dict[str, str | None]:
    """Workers that reported recently, with the digest of their node definitions.

    A worker that is restarting still counts: executions that only it can run wait for it.
    """
    reported = usage.hosts_reported(within=timedelta(seconds=settings.RESERVED_SECONDS))
    return dict(Worker.objects.filter(name__in=reported).values_list("name", "object_info_id"))


cached_fleet = TtlCache(_fleet, seconds=FLEET_SECONDS)


def suited(prompt: parsing.Prompt, models: Iterable[parsing.ModelUse]) -> Suited:
    """Match a workflow to workers. At most two queries; none if there is only one worker."""
    fleet = cached_fleet()
    if len(fleet) < 2:
        return Suited()
    missing = _missing_nodes(prompt, fleet)
    for worker, names in usage.missing(fleet, names={use.name for use in models}).items():
        missing[worker] = missing.get(worker, set()) | names
    lacking = sorted(worker for worker, things in missing.items() if things)
    able = sorted(fleet.keys() - set(lacking))
    return Suited(lacking, able) if lacking and able else Suited()


def _missing_nodes(prompt: parsing.Prompt, fleet: dict[str, str | None]) -> dict[str, set[str]]:
    """By worker: required node classes that it lacks but another worker has."""
    wanted = {str(node["class_type"]) for node in prompt.values()}
    has = {worker: wanted & file_inputs.classes(digest) for worker, digest in fleet.items() if digest}
    anywhere = set().union(*has.values())
    return {worker: anywhere - found for worker, found in has.items()}


# -- changes -------------------------------------------------------------------------------------------
def has_more(worker: str) -> None:
    """The worker's nodes or models changed: let it claim waiting executions whose models it now has."""
    rows.execute(
        """
        UPDATE workflows_execution SET lacking = array_remove(lacking, %(worker)s::varchar)
        WHERE status = 'pending' AND claim_token IS NULL AND lacking @> ARRAY[%(worker)s]::varchar[]
          AND NOT EXISTS (
            SELECT FROM jsonb_array_elements(models_used) AS used
            WHERE NOT EXISTS (
                SELECT FROM models_registry_modelfile f JOIN models_registry_model m ON m.id = f.model_id
                WHERE f.host_id = %(worker)s AND m.name = replace(used->>'name', chr(92), '/')))
        """,
        {"worker": worker},
    )


def lift() -> int:
    """Release executions that no current worker may claim, because of reports or earlier rejections.

    With no suitable worker left to wait for, a worker reports what is missing and the execution fails.
    Returns the number released.
    """
    fleet = set(_fleet())
    return rows.execute(
        """
        UPDATE workflows_execution SET lacking = '{}', excluded = CASE
            WHEN EXISTS (SELECT FROM unnest(%(alive)s::varchar[]) AS there WHERE there <> ALL(excluded))
            THEN excluded ELSE '{}' END
        WHERE id IN (
            SELECT id FROM workflows_execution
            WHERE status = 'pending' AND claim_token IS NULL AND (lacking <> '{}' OR excluded <> '{}')
              AND NOT EXISTS (SELECT FROM unnest(%(fleet)s::varchar[]) AS there
                              WHERE there <> ALL(lacking) AND there <> ALL(excluded))
            FOR UPDATE SKIP LOCKED)
        """,
        {"fleet": list(fleet), "alive": [*fleet, *registry.may_return()]},
    )
