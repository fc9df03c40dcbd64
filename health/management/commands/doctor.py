"""manage.py doctor: the first command to run when something is wrong."""

from __future__ import annotations

import logging
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from health import doctor
from health.doctor import Finding, Verdict

MARKS = {Verdict.GOOD: ("ok ", "SUCCESS"), Verdict.NOTE: ("note", "WARNING"), Verdict.BAD: ("BAD", "ERROR")}


class Command(BaseCommand):
    help = "Check everything that ComfyServe needs, and say how to fix what is wrong."
    requires_system_checks = []  # they would abort the command before it could report anything

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--before-start", action="store_true", help="only the checks that need no running servers"
        )

    def handle(self, *args: Any, before_start: bool, **options: Any) -> None:  # noqa: ARG002
        logging.disable(logging.WARNING)  # the findings report errors
        findings = []
        for finding in doctor.examine(before_start=before_start):
            self._print(finding)
            findings.append(finding)
        wrong = sum(finding.verdict is Verdict.BAD for finding in findings)
        if wrong:
            self.stdout.write(self.style.ERROR(f"\n{wrong} to fix"))
            sys.exit(1)
        self.stdout.write(self.style.SUCCESS("\nAll checks passed"))

    def _print(self, finding: Finding) -> None:
        mark, style = MARKS[finding.verdict]
        self.stdout.write(f"{getattr(self.style, style)(f'{mark:4}')}  {finding.subject:11} {finding.seen}")
        if finding.to_do:
            self.stdout.write(f"{'':18}-> {finding.to_do}")
