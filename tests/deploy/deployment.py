"""The services of compose.yaml as plain processes: their own commands and environments, and nothing else.

What differs from containers: hosts and ports of the other services are those of the servers that the tests
run against, and what the image sets (PATH, DATA_DIR, HOST) is set here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import requests
from psycopg import sql

from script.harness.stack import Person
from script.local import ports
from script.local.paths import ROOT
from script.local.processes import Process
from tests.deploy import compose

DATABASE = "comfyserve_compose"
REDIS_DATABASE = 9  # others of the same server belong to other tests
PASSWORD = "0123456789abcdef"


class Deployment:
    """Made of the addresses of PostgreSQL, Redis, an S3 server and ComfyUI; see the fixture."""

    def __init__(
        self,
        folder: Path,
        *,
        database_url: str,
        redis_url: str,
        s3_url: str,
        s3_secret: str,
        comfyui_url: str,
    ) -> None:
        self.folder = folder
        self._admin_url = database_url
        self.ports = {name: ports.free_port() for name in ("proxy", "api", "flower")}
        self.url = f"http://localhost:{self.ports['proxy']}"
        database, redis = urlsplit(database_url), urlsplit(redis_url)
        self._elsewhere = {
            "@postgres:5432/comfyserve": f"@{database.hostname}:{database.port}/{DATABASE}",
            "@redis:6379/0": f"@{redis.hostname}:{redis.port}/{REDIS_DATABASE}",
            "@s3:8333/": f"@{urlsplit(s3_url).netloc}/",
            "http://comfyui:8188": comfyui_url,
        }
        self.services = compose.services(
            {
                "SECRET_KEY": "a key for tests of the deployment only, with fifty or more characters",
                "POSTGRES_PASSWORD": PASSWORD,
                "REDIS_PASSWORD": redis.password or "",
                "S3_SECRET_KEY": s3_secret,
                "FLOWER_PASSWORD": PASSWORD,
                "PUBLIC_URL": self.url,
                "SITE_ADDRESS": f":{self.ports['proxy']}",
            }
        )
        self._s3 = urlsplit(s3_url).netloc
        self.processes: dict[str, Process] = {}
        self._people = 0

    # -- processes ------------------------------------------------------------------------------------
    @property
    def database_url(self) -> str:
        return self.environment("api")["DATABASE_URL"]

    def make_database(self) -> None:
        """What the image of PostgreSQL does at its first start: a user and an empty database of its own."""
        self._drop_database()
        with psycopg.connect(self._admin_url, autocommit=True) as connection:
            connection.execute(
                sql.SQL("CREATE ROLE comfyserve LOGIN PASSWORD {}").format(sql.Literal(PASSWORD))
            )
            connection.execute(f"CREATE DATABASE {DATABASE} OWNER comfyserve")

    def start(self, name: str) -> Process:
        """Start one of our services, without waiting for it."""
        service = self.services[name]
        process = Process(
            name,
            [ROOT / service["command"][0], *service["command"][1:]],
            log=self.folder / "logs" / f"{name}.log",
            env=self.environment(name),
            cwd=ROOT,
        ).start()
        self.processes[name] = process
        return process

    def start_proxy(self) -> Process:
        """Caddy with the mounted configuration, as its image starts it."""
        [mounted] = [
            volume.split(":")[0] for volume in self.services["proxy"]["volumes"] if "Caddyfile" in volume
        ]
        caddy = Path(sys.executable).with_name("caddy")
        self.processes["proxy"] = Process(
            "proxy",
            [caddy, "run", "--config", ROOT / mounted, "--adapter", "caddyfile"],
            log=self.folder / "logs" / "proxy.log",
            env={
                "PATH": os.defpath,
                "HOME": str(self.folder),
                **self.services["proxy"]["environment"],
                "API_ADDRESS": f"127.0.0.1:{self.ports['api']}",
                "FLOWER_ADDRESS": f"127.0.0.1:{self.ports['flower']}",
                "S3_ADDRESS": self._s3,
            },
        ).start()
        return self.processes["proxy"]

    def environment(self, name: str) -> dict[str, str]:
        given: Mapping[str, str] = self.services[name]["environment"]
        return {
            # as in the image
            "PATH": f"{Path(sys.executable).parent}:{os.defpath}",
            "DATA_DIR": str(self.folder / "data"),
            "HOST": "127.0.0.1",
            # its own
            **{key: self._placed(value) for key, value in given.items()},
            # ports that are free here
            "PORT": str(self.ports["api"]),
            "FLOWER_PORT": str(self.ports["flower"]),
        }

    def _placed(self, value: str) -> str:
        for there, here in self._elsewhere.items():
            value = value.replace(there, here)
        return value

    def is_well(self, name: str) -> bool:
        """Its health check, as compose.yaml has it, asked at the port that is free here."""
        program = self.services[name]["healthcheck"]["test"][-1]
        address = program.split("'")[1]
        port = self.ports[name]
        try:
            return requests.get(address.replace(f":{urlsplit(address).port}/", f":{port}/"), timeout=5).ok
        except requests.RequestException:
            return False

    def wait_until_well(self, name: str) -> None:
        self.processes[name].wait_until(lambda: self.is_well(name), seconds=60)

    def wait_until_it_works(self, name: str) -> None:
        """A worker has no health check: it says that it is ready."""
        process = self.processes[name]
        process.wait_until(lambda: any(" ready." in line for line in process.tail(200)), seconds=60)

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
        self._drop_database()

    def _drop_database(self) -> None:
        with psycopg.connect(self._admin_url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
            connection.execute("DROP ROLE IF EXISTS comfyserve")

    # -- what tests ask -------------------------------------------------------------------------------
    def person(self) -> Person:
        self._people += 1
        return Person(self.url, f"person{self._people}")

    def sql(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database_url) as connection:
            return connection.execute(query, parameters or None).fetchall()

    def ask(self, path: str, **options: Any) -> requests.Response:
        return requests.get(self.url + path, timeout=30, **options)
