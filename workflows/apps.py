from __future__ import annotations

from uuid import UUID

from django.apps import AppConfig


class WorkflowsConfig(AppConfig):
    name = "workflows"

    def ready(self) -> None:
        from files import pins

        from . import checks  # noqa: F401  (registers itself)

        pins.register(_alive)


def _alive(execution_ids: set[UUID]) -> set[UUID]:
    """Pending and running executions, which need the files that they have pinned."""
    from .models import ALIVE, Execution

    return set(Execution.objects.filter(id__in=execution_ids, status__in=ALIVE).values_list("id", flat=True))
