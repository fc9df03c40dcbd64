"""Exec one of our processes other than workers: web, beat or flower."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from script.local import roles, running
from script.local.console import UserError
from script.local.paths import ROOT, data_dir

HELP = """Start one process, as script/serve and the container image do.

  web      the API, at HOST (127.0.0.1) and PORT (8000)
  beat     housekeeping by the clock; one in the whole fleet
  flower   the dashboard of queues and workers, at HOST and FLOWER_PORT (5555), path /flower/;
           FLOWER_BASIC_AUTH=user:password says who may see it

It finds the database and Redis of a running script/serve by itself; DATABASE_URL, REDIS_URL and SECRET_KEY
name others. Further arguments go to uvicorn or Celery. Workers are started by script/worker."""

ROLES = ("web", "beat", "flower")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        "script/run", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("role", choices=ROLES)
    options, rest = parser.parse_known_args(arguments)
    running.borrow_addresses()
    os.chdir(ROOT)
    command = [str(part) for part in _command(options.role)]
    sys.stdout.flush()
    os.execv(command[0], [*command, *rest])


def _command(role: str) -> list[str | Path]:
    host = os.environ.get("HOST") or "127.0.0.1"
    if role == "web":
        return roles.web(host=host, port=int(os.environ.get("PORT") or "8000"))
    if role == "beat":
        schedule = data_dir() / "run" / "beat"
        schedule.parent.mkdir(parents=True, exist_ok=True)
        return roles.beat(schedule=schedule)
    if ":" not in os.environ.get("FLOWER_BASIC_AUTH", ""):
        # Anyone with access sees who runs what, and can cancel it.
        raise UserError("Flower requires FLOWER_BASIC_AUTH=user:password.")
    port = int(os.environ.get("FLOWER_PORT") or "5555")
    return roles.flower(host=host, port=port, state=data_dir() / "flower" / "state")
