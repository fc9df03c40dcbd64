"""manage.py clean: removes now what beat removes gradually; with --dry-run only reports it."""

from __future__ import annotations

from argparse import ArgumentParser
from collections import Counter
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from accounts import cleaning as accounts
from comfyserve.cleaning import Clean, summary, throttled
from files import cleaning as files
from files.errors import StorageUnavailable
from workflows import cleaning as workflows

# Executions first: files used only by them are found afterwards.
PARTS: dict[str, Clean] = {"workflows": workflows.clean, "files": files.clean, "accounts": accounts.clean}


class Command(BaseCommand):
    help = (
        "Remove data past its retention period: old executions, logs, deliveries, sessions, silent workers, "
        "expired files, and bytes in the storage without a row. It may run at any time, and be "
        "stopped at any time."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--only", choices=PARTS, help="clean only this part")
        parser.add_argument("--dry-run", action="store_true", help="only report what would be removed")

    def handle(self, *args: Any, only: str | None, dry_run: bool, **options: Any) -> None:  # noqa: ARG002
        counts: Counter[str] = Counter()
        size = 0
        try:
            for part in [only] if only else PARTS:
                going = PARTS[part](dry_run=dry_run)
                for gone in going if dry_run else throttled(going):
                    counts[gone.what] += gone.count
                    size += gone.size or 0
                    if gone.name:
                        self.stdout.write(f"{gone.what:<28}  {gone.size or '':>12}  {gone.name}")
        except StorageUnavailable as exc:
            raise CommandError(exc.message) from exc
        self.stdout.write(
            f"{'would remove' if dry_run else 'removed'}: {summary(counts)}; {size} bytes of files"
        )
