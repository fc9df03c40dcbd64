from __future__ import annotations

from uuid import UUID

from django.apps import AppConfig


class AppsCatalogConfig(AppConfig):
    name = "apps_catalog"
    verbose_name = "Apps"

    def ready(self) -> None:
        from files import pins

        pins.register(_kept)


def _kept(version_ids: set[UUID]) -> set[UUID]:
    """Versions that still exist, and so need their files."""
    from .models import AppVersion

    return set(AppVersion.objects.filter(id__in=version_ids).values_list("id", flat=True))
