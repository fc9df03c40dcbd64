"""Which workers can run a workflow: by the nodes and models that they have told of.

Looked up when a workflow is submitted, so that taking it costs nothing. It is only what was told: where it is
wrong, ComfyUI refuses, and the execution goes to another worker (`excluded`), as for what nobody told of.
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

FLEET_SECONDS = 2.0  # so old may be what is known of who is there


@dataclass(frozen=True)
class Suited:
    """`lacking` lack something that the `able` have; both empty where there is nothing to choose."""

    lacking: list[str] = field(default_factory=list)
    able: list[str] = field(default_factory=list)


def _fleet() -> dict[str, str | None]:
    """Workers that told of their ComfyUI lately, with the digest of what its nodes take.

    One that is started anew is still there: what only it can run waits for it.
    """
    told = usage.hosts_told(within=timedelta(seconds=settings.RESERVED_SECONDS))
    return dict(Worker.objects.filter(name__in=told).values_list("name", "object_info_id"))


fleet_lately = TtlCache(_fleet, seconds=FLEET_SECONDS)


def suited(prompt: parsing.Prompt, models: Iterable[parsing.ModelUse]) -> Suited:
    """At most two queries, none of them where there is one worker only."""
    fleet = fleet_lately()
    if len(fleet) < 2:
        return Suited()
    missing = _missing_nodes(prompt, fleet)
    for worker, names in usage.missing(fleet, names={use.name for use in models}).items():
        missing[worker] = missing.get(worker, set()) | names
    lacking = sorted(worker for worker, things in missing.items() if things)
    able = sorted(fleet.keys() - set(lacking))
    return Suited(lacking, able) if lacking and able else Suited()


def _missing_nodes(prompt: parsing.Prompt, fleet: dict[str, str | None]) -> dict[str, set[str]]:
    """By worker: classes that it does not have and another has."""
    wanted = {str(node["class_type"]) for node in prompt.values()}
    has = {worker: wanted & file_inputs.classes(digest) for worker, digest in fleet.items() if digest}
    anywhere = set().union(*has.values())
    return {worker: anywhere - found for worker, found in has.items()}


# -- when something changes ------------------------------------------------------------------------------
def has_more(worker: str) -> None:
    """Its nodes or models are others now: what waits and needs no model that it still lacks may go there."""
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
    """Let anybody try what nobody who is there could take, by what was told or by what was refused.

    With nobody else to hope for they will say what is missing, and it ends. The number of those let go.
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
        {"fleet": list(fleet), "alive": [*fleet, *registry.hoped_for()]},
    )
