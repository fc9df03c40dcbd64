"""The squashed migrations make the same database as the ones they replace, from wherever it starts."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader
from psycopg import sql

from script.local.postgres import program
from tests import databases

# The newest migrations of one database: it has some of those that each squashed one replaces, not all.
EARLIER = (
    ("accounts", "0004_key_scope"),
    ("apps_catalog", "0001_initial"),
    ("files", "0006_index_of_blake3"),
    ("workflows", "0022_flows_waiting_and_claimed"),
)
OPERATORS_MAY = """
SELECT "group".name, kind.app_label, permission.codename, permission.name
FROM auth_group_permissions AS granted
JOIN auth_group AS "group" ON "group".id = granted.group_id
JOIN auth_permission AS permission ON permission.id = granted.permission_id
JOIN django_content_type AS kind ON kind.id = permission.content_type_id
ORDER BY 1, 2, 3
"""


@pytest.fixture
def server(django_db_blocker) -> Iterator[Server]:
    with django_db_blocker.unblock():
        server = Server()
        yield server
        server.remove_all()


class Server:
    """Databases of their own on the server of the tests."""

    def __init__(self) -> None:
        settings = connection.settings_dict
        self._arguments = {key: settings[key.upper()] for key in ("user", "password", "host", "port")}
        self._names: list[str] = []

    def create(self, *, like: str = "template0") -> str:
        name = f"migrations_{uuid.uuid4().hex}"
        self._run("CREATE DATABASE {} TEMPLATE {}", name, like)
        self._names.append(name)
        return name

    def remove_all(self) -> None:
        for name in self._names:
            self._run("DROP DATABASE {} WITH (FORCE)", name)

    def schema(self, name: str) -> str:
        """Of everything, in pg_dump's order, with the columns in the order that they have in their table."""
        command: list[str | Path] = [
            program("pg_dump"),
            "--schema-only",
            "--no-owner",
            "--restrict-key=key",
            "--dbname",
            name,
        ]
        env = {f"PG{key.upper()}": str(value) for key, value in self._arguments.items()}
        return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout

    def _run(self, statement: str, *names: str) -> None:
        with psycopg.connect(**self._arguments, dbname="postgres", autocommit=True) as server:
            server.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


@contextmanager
def without_squashed() -> Iterator[None]:
    """As in the versions before them."""
    load = MigrationLoader.load_disk

    def load_replaced(self: MigrationLoader) -> None:
        load(self)
        found = self.disk_migrations.items()
        self.disk_migrations = {key: migration for key, migration in found if not migration.replaces}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MigrationLoader, "load_disk", load_replaced)
        yield


def migrate(name: str) -> int:
    """Migrate the database; how many migrations were pending."""
    with databases.using(name):
        executor = MigrationExecutor(connection)
        pending = executor.migration_plan(executor.loader.graph.leaf_nodes())
        call_command("migrate", verbosity=0)
        executor = MigrationExecutor(connection)
        assert executor.migration_plan(executor.loader.graph.leaf_nodes()) == []
        assert executor.loader.disk_migrations.keys() <= executor.recorder.applied_migrations().keys()
        return len(pending)


def operators_may(name: str) -> list[tuple[str, ...]]:
    with databases.using(name), connection.cursor() as cursor:
        cursor.execute(OPERATORS_MAY)
        return cursor.fetchall()


def test_databases_of_all_versions_end_up_the_same(server):
    new, latest = server.create(), server.create()
    with without_squashed():
        with databases.using(latest):
            for app, migration in EARLIER:
                call_command("migrate", app, migration, verbosity=0)
        earlier = server.create(like=latest)
        migrate(latest)
    assert migrate(latest) == 0
    assert migrate(earlier) > 0
    assert migrate(new) > 0
    assert server.schema(new) == server.schema(latest) == server.schema(earlier)
    assert operators_may(new) == operators_may(latest) == operators_may(earlier) != []


def test_a_new_database_takes_a_handful_of_our_own_migrations():
    replaced = {
        key for migration in MigrationLoader(None).disk_migrations.values() for key in migration.replaces
    }
    ours = {"accounts", "apps_catalog", "files", "models_registry", "workflows"}
    graph = MigrationLoader(None).graph
    assert len([key for key in graph.nodes if key[0] in ours]) < 15
    assert not replaced & graph.nodes.keys()
