"""Exec a Celery worker for some of the queues."""

from __future__ import annotations

import argparse
import os
import sys

from script.local import running
from script.local.console import UserError
from script.local.paths import ROOT

HELP = """Start a worker for the given queues, separated by commas.

  gpu        runs executions on the ComfyUI at COMFYUI_URL; one for each ComfyUI
  models     downloads and other work on model files
  webhooks   delivers webhooks
  default    everything else

It finds the database and Redis of a running script/serve by itself; DATABASE_URL, REDIS_URL and SECRET_KEY
name others. COMFYUI_NAME names its backend where host name and address do not fit. It stops cleanly on
SIGTERM. Further arguments go to Celery."""

QUEUES = ("gpu", "models", "webhooks", "default")
# Threads. A GPU worker runs one execution and stages one; the rest is I/O-bound.
_GPU_THREADS, _OTHER_THREADS = 4, 8


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        "script/worker", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("queues", metavar="QUEUE[,QUEUE…]")
    options, rest = parser.parse_known_args(arguments)
    queues = [queue.strip() for queue in options.queues.split(",") if queue.strip()]
    unknown = sorted(set(queues) - set(QUEUES))
    if unknown or not queues:
        raise UserError(f"There is no queue {', '.join(unknown) or 'named'}. Queues: {', '.join(QUEUES)}")
    running.borrow_addresses()
    os.chdir(ROOT)
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "celery", *celery_arguments(queues), *rest])


def celery_arguments(queues: list[str]) -> list[str]:
    """The arguments of `celery`."""
    threads, name = _OTHER_THREADS, f"{'-'.join(queues)}-{os.getpid()}"
    if "gpu" in queues:
        backend = _backend()
        threads = _GPU_THREADS + (_OTHER_THREADS if len(queues) > 1 else 0)
        name = f"gpu-{backend}"
        queues = [*queues, f"gpu.{backend}"]
    return [
        # Quiet: no banner between the log lines.
        "-q", "-A", "comfyserve", "worker", "--pool", "threads", "--concurrency", str(threads),
        "-Q", ",".join(queues), "-n", f"{name}@%h", "-l", os.environ.get("LOG_LEVEL", "INFO"),
        # Ours know from PostgreSQL what workers exchange through these two.
        "--without-gossip", "--without-mingle",
    ]  # fmt: skip


def _backend() -> str:
    sys.path.insert(0, str(ROOT))
    from comfyserve.backends import DEFAULT_URL, backend_name

    try:
        return backend_name(
            name=os.environ.get("COMFYUI_NAME", ""), url=os.environ.get("COMFYUI_URL", DEFAULT_URL)
        )
    except ValueError as error:
        raise UserError(str(error)) from None
