"""From nothing to an image: set up, start everything, submit a workflow through the API, stop everything."""

from __future__ import annotations

import argparse
import os
import random
import signal
import time
from pathlib import Path
from typing import NoReturn

from script.local import ports, running
from script.local.paths import data_dir
from script.local.services import Services

HELP = """Make a first picture: start all services (and install a ComfyUI, unless one responds at COMFYUI_URL
or on port 8188), register a user, submit a workflow, follow it, save the picture, stop everything.

The picture is made with small models with artificial weights, or with the first checkpoint of your own
ComfyUI. A running script/serve is used. DATA_DIR, COMFYUI_DIR, DATABASE_URL, REDIS_URL: see script/serve."""

# Our own services have no rate limit; a server already in use permits one request a second.
_QUICK_SECONDS, _SLOW_SECONDS = 0.15, 1.2


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        "script/demo", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, help="the same seed gives the same picture")
    options = parser.parse_args(arguments)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**31)
    began = time.monotonic()
    signal.signal(signal.SIGTERM, _terminated)
    signal.signal(signal.SIGHUP, _terminated)
    found = running.addresses()
    if found is not None:
        times, picture = _with_running_services(found, seed)
    else:
        times, picture = _with_own_services(seed, began)
    _print_summary(times, picture, time.monotonic() - began)


def _with_running_services(found: dict[str, str], seed: int) -> tuple[dict[str, float], Path]:
    from script.local.demo_client import Painting  # needs the packages, which --help must not require

    print(f"ComfyServe runs in {data_dir()}: using it")
    painting = Painting(
        f"http://127.0.0.1:{found['PORT']}", found["COMFYUI_URL"].split(","), seed=seed, small_models=False
    )
    picture = painting.finish(pause=_SLOW_SECONDS)
    return painting.times, picture


def _with_own_services(seed: int, began: float) -> tuple[dict[str, float], Path]:
    print("Starting ComfyServe")
    os.environ.setdefault("RATE_LIMITS", "off")  # for the few seconds in which only the demo uses it
    services = Services(host="127.0.0.1", port=ports.free_port(), for_demo=True)
    try:
        services.start()
        started = time.monotonic()
        times, picture = _paint(services, seed)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # nothing may be left running
        ended = time.monotonic()
        services.stop()
    stopped = {"stop everything": time.monotonic() - ended}
    return {"set up and start all but ComfyUI": started - began, **times, **stopped}, picture


def _paint(services: Services, seed: int) -> tuple[dict[str, float], Path]:
    """Submit while our ComfyUI is still starting: the queue makes that possible."""
    from script.local.demo_client import Painting

    painting = Painting(
        services.url,
        services.comfyui_urls,
        seed=seed,
        small_models=services.small_models,
        check=services.check,
    )
    try:
        with painting.timed("wait for ComfyUI to start"):
            services.wait_for_comfyui()
        picture = painting.finish(pause=_QUICK_SECONDS)
    except BaseException:
        painting.give_up()
        raise
    return painting.times, picture


def _print_summary(times: dict[str, float], picture: Path, total: float) -> None:
    print()
    for what, seconds in times.items():
        print(f"  {seconds:6.1f} s  {what}")
    print(f"  {total:6.1f} s  in total\n")
    print(f"The picture: {picture}")
    print("Next: script/serve runs everything permanently; the API is documented at /docs.")


def _terminated(*_: object) -> NoReturn:
    raise KeyboardInterrupt
