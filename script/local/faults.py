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

HELP = """Start all of ComfyServe on this machine, with two GPU workers on two ComfyUIs, and then kill,
restart, freeze and cut off its processes at random while clients submit, cancel, retry, read and follow.

At the end it checks from the client's side that nothing was lost, nothing was done twice, every picture has
the right bytes and every webhook arrived; and in the stores that nothing is left over. It prints the
violations and exits with 1 if there are any. docs/reliability.md lists the guarantees.

It uses its own ports and data, and affects nothing else on this machine."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "script/faults", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=3.0, help="duration of the faults (3)")
    parser.add_argument("--seed", type=int, help="repeats a sequence of faults; default: random")
    parser.add_argument("--clients", type=int, default=10, help="number of concurrent clients (10)")
    parser.add_argument("--pause", type=float, default=2.0, help="longest pause of a client in seconds (2)")
    parser.add_argument("--pace", type=float, default=6.0, help="seconds between two faults on average (6)")
    parser.add_argument(
        "--only",
        nargs="*",
        default=[],
        metavar="WORD",
        help="only kinds of faults with one of these words",
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
    from script.fault_injection.attack import attack, print_report
    from script.fault_injection.cluster import Cluster

    print(f"Seed {seed}. Logs in {folder / 'logs'}", flush=True)
    with Cluster(folder).running() as cluster:
        print("Everything runs; the faults begin", flush=True)
        report = attack(
            cluster,
            seconds=options.minutes * 60,
            seed=seed,
            clients=options.clients,
            pace=options.pace,
            pause=options.pause,
            only=tuple(options.only),
        )
    print_report(report, seed=seed)
    return 1 if report.broken else 0
