"""Attacks a whole ComfyServe with two accounts and with none, and reports what succeeded."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from script.local.attack.parts import PARTS
from script.local.paths import ROOT

if TYPE_CHECKING:
    from script.local.attack.installation import Installation
    from script.local.attack.report import Report

HELP = """Try to read, change, stop and use up what belongs to another user, on a running ComfyServe, with two
accounts (the attacker's and the victim's) and without one: every input of every stock node that could take a
path, every route with every method and the victim's ids, forged headers, slow and greedy connections, bombs.

The nodes and routes are those that the installation describes. The victim's data is marked, and every
response is searched for the marks; the latency of an ordinary client is measured all the time. Prints the
successful attacks, and exits with 1 if there are any. docs/security.md lists the guarantees.

Without --url it starts its own installation with script/serve, on separate ports and data. Never attack an
installation in use: it is loaded to its limits, and both accounts are left full."""


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    os.chdir(ROOT)
    # Ended from outside, it still ends all that it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    print(f"Seed {seed}", flush=True)
    from script.local.attack.installation import Installation, our_own

    if options.url:
        return _finish(_attacked(Installation(options.url, options.comfyui), options, seed=seed))
    folder = options.keep or Path(tempfile.mkdtemp(prefix="comfyserve-attack-"))
    try:
        with our_own(folder.resolve()) as installation:
            return _finish(_attacked(installation, options, seed=seed))
    finally:
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "script/attack", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--minutes", type=float, default=10.0, help="approximate duration (10)")
    add("--url", default=os.environ.get("ATTACK_URL", ""), help="a running installation (ATTACK_URL)")
    for who in ("attacker", "victim"):
        variable = f"ATTACK_{who.upper()}"
        add(
            f"--{who}",
            default=os.environ.get(variable, ""),
            metavar="EMAIL:PASSWORD",
            help=f"its account ({variable}); registered if not given",
        )
    add("--comfyui", type=Path, help="the folder with that ComfyUI's input and output, if on this machine")
    add("--only", choices=PARTS, action="append", help="only this part; may be given several times")
    add("--connections", type=int, default=200, help="number of concurrent connections (200)")
    add("--seed", type=int, help="repeats an order of tries; default: random")
    add("--keep", type=Path, help="keep logs and data in this folder")
    return parser


def _finish(report: Report) -> int:
    print("\n".join(report.lines()), flush=True)
    return 1 if report.leaks else 0


def _attacked(installation: Installation, options: argparse.Namespace, *, seed: int) -> Report:
    from script.local.attack.campaign import Extent, attack

    return attack(
        installation,
        Extent(seconds=options.minutes * 60, seed=seed, connections=options.connections),
        parts=options.only or PARTS,
        accounts=(options.attacker, options.victim),
    )
