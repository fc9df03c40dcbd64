"""Migrations after a release can run while the previous version is still serving.

`docs/architecture.md` has the rules for people; django-migration-linter looks at the SQL of each migration.
"""

from __future__ import annotations

import pytest
from django.conf import settings
from django.core.management import call_command
from django.db.migrations.loader import MigrationLoader
from django_migration_linter import MigrationLinter
from django_migration_linter.sql_analyser.analyser import analyse_sql_statements, get_sql_analyser_class

from script.local.paths import ROOT

# The newest migrations that no older version can meet: nothing is released yet. At a release these become the
# newest ones of that release; from then on all that come later are looked at.
BASELINE = {
    "accounts": "0003_operator_groups",
    "files": "0002_shared_bytes_thumbnails_and_pins",
    "models_registry": "0001_initial",
    "workflows": "0010_lacking",
}
# Those that the linter refuses and that are right all the same: (app, name), each with the reason.
DELIBERATE: dict[tuple[str, str], str] = {}


def later() -> list[tuple[str, str]]:
    """Our migrations after the baseline, whether they were applied or not."""
    known = MigrationLoader(None).disk_migrations
    ours = [(app, name) for app, name in known if (ROOT / app / "migrations" / f"{name}.py").exists()]
    return sorted((app, name) for app, name in ours if name > BASELINE.get(app, ""))


def complaints(statements: list[str]) -> list[str]:
    """What would break or block the version that serves. Warnings count: what locks a table stops it."""
    analyser = get_sql_analyser_class(settings.DATABASES["default"]["ENGINE"])
    errors, _, warnings = analyse_sql_statements(analyser, statements, [])
    return [issue.message for issue in [*errors, *warnings]]


# Outside a transaction: what makes an index beside running queries refuses to be described inside of one.
@pytest.mark.django_db(transaction=True)
def test_the_old_version_can_serve_while_they_run():
    linter = MigrationLinter(no_cache=True, no_output=True)
    refused = {
        (app, name): found
        for app, name in later()
        if (found := complaints(linter.get_sql(app, name))) and (app, name) not in DELIBERATE
    }
    assert refused == {}, "see 'Migrations' in docs/architecture.md"


@pytest.mark.django_db
def test_every_change_of_a_model_has_its_migration(capsys):
    try:
        call_command("makemigrations", check=True, dry_run=True)
    except SystemExit:
        pytest.fail(f"run script/manage makemigrations:\n{capsys.readouterr().out}")


def test_the_baseline_names_migrations_that_exist():
    assert set(BASELINE.items()) <= set(MigrationLoader(None).disk_migrations)


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE workflows_execution DROP COLUMN boot CASCADE;",
        "ALTER TABLE workflows_execution RENAME COLUMN boot TO run;",
        "ALTER TABLE workflows_execution ADD COLUMN room integer NOT NULL;",
        "ALTER TABLE workflows_execution ALTER COLUMN boot TYPE text;",
        'CREATE INDEX "new" ON "workflows_execution" ("boot");',
        'DROP TABLE "workflows_flow" CASCADE;',
    ],
)
def test_incompatible_or_blocking_statements_are_rejected(statement):
    assert complaints([statement])


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE workflows_execution ADD COLUMN room integer NULL;",
        "ALTER TABLE workflows_execution ADD COLUMN room integer DEFAULT 1 NOT NULL;",
        'CREATE INDEX CONCURRENTLY "new" ON "workflows_execution" ("boot");',
        'CREATE TABLE "workflows_new" ("id" bigint NOT NULL);',
    ],
)
def test_harmless_statements_are_accepted(statement):
    assert complaints([statement]) == []
