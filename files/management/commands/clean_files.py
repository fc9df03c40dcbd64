"""manage.py clean_files: what the hourly sweep does, now; with --dry-run only told."""

from __future__ import annotations

from argparse import ArgumentParser
from collections import Counter
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from files import cleaning
from files.errors import StorageAway


class Command(BaseCommand):
    help = "Remove expired files, bytes in the storage without a row, and uploads that broke off."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="only say what would go")

    def handle(self, *args: Any, dry_run: bool, **options: Any) -> None:  # noqa: ARG002
        counts: Counter[str] = Counter()
        size = 0
        try:
            for gone in cleaning.clean(dry_run=dry_run):
                counts[gone.what] += 1
                size += gone.size or 0
                self.stdout.write(f"{gone.what:<10}  {gone.size or '':>12}  {gone.name}")
        except StorageAway as exc:
            raise CommandError(exc.message) from exc
        told = ", ".join(f"{count} {what}" for what, count in sorted(counts.items())) or "nothing"
        self.stdout.write(f"{'would remove' if dry_run else 'removed'}: {told}; {size} bytes")
