"""Inject faults into a whole ComfyServe, and check that it keeps its guarantees."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from script.local.paths import ROOT

HELP = """Start all of ComfyServe on this machine, two GPU workers on two ComfyUIs among it, and then kill,
restart, freeze and cut off its processes at random while clients submit, cancel, retry, read and follow.

At the end it checks from the client's side that nothing was lost, nothing was done twice, every picture has
the right bytes and every webhook came; and behind it that nothing is left over. It prints what was broken
and ends with 1 if anything was. docs/reliability.md says what is promised.

It has ports and data of its own; what runs on this machine is not touched."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "script/faults", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=3.0, help="how long faults go on (3)")
    parser.add_argument("--seed", type=int, help="repeats a sequence of faults; by default a new one")
    parser.add_argument("--clients", type=int, default=10, help="how many work at the same time (10)")
    parser.add_argument("--pause", type=float, default=2.0, help="seconds that a client rests at most (2)")
    parser.add_argument("--pace", type=float, default=6.0, help="seconds between two faults on average (6)")
    parser.add_argument(
        "--only",
        nargs="*",
        default=[],
        metavar="WORD",
        help="only kinds with one of these words",
    )
    parser.add_argument("--keep", type=Path, help="keep logs in this folder")
    options = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    os.chdir(ROOT)
    # On SIGTERM, still stop everything that was started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = options.keep or Path(tempfile.mkdtemp(prefix="comfyserve-faults-"))
    try:
        return _attack(folder.resolve(), options, seed=seed)
    finally:
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)


def _attack(folder: Path, options: argparse.Namespace, *, seed: int) -> int:
    from script.fault_injection.attack import attack, tell
    from script.fault_injection.world import World

    print(f"Seed {seed}. Logs in {folder / 'logs'}", flush=True)
    with World(folder).running() as world:
        print("Everything runs; the faults begin", flush=True)
        report = attack(
            world,
            seconds=options.minutes * 60,
            seed=seed,
            clients=options.clients,
            pace=options.pace,
            pause=options.pause,
            only=tuple(options.only),
        )
    tell(report, seed=seed)
    return 1 if report.broken else 0
