"""One attack from its beginning to its end."""

from __future__ import annotations

import time
from collections.abc import Sequence

from script.local.attack.bombs import BombAttack
from script.local.attack.callers import Caller, log_in
from script.local.attack.canaries import Canaries
from script.local.attack.connections import ConnectionAttack
from script.local.attack.headers import HeaderAttack
from script.local.attack.honest import Honest
from script.local.attack.installation import Installation
from script.local.attack.nodes import NodeAttack
from script.local.attack.parts import PARTS
from script.local.attack.report import Report
from script.local.attack.routes import RouteAttack
from script.local.attack.victim import Victim
from script.local.attack.walk import routes


def attack(
    installation: Installation,
    *,
    seconds: float,
    seed: int,
    parts: Sequence[str] = PARTS,
    connections: int = 200,
    accounts: tuple[str, str] = ("", ""),
    classes: Sequence[str] | None = None,
    bombs: frozenset[str] | None = None,
    routes_share: float = 1.0,
    kinds: frozenset[str] | None = None,
    alone_seconds: float = 5.0,
    hold_seconds: float = 10.0,
) -> Report:
    """`classes`, `bombs`, `kinds` (of connections) and `routes_share` limit what is tried, for tests.
    UserError where the accounts do not work."""
    began, report, canaries = time.monotonic(), Report(), Canaries()
    installation.plant(canaries)
    nobody = Caller(installation.url, "anonymous")
    attacker = log_in(installation.url, "attacker", accounts[0])
    victim = Victim(log_in(installation.url, "victim", accounts[1]), canaries)
    victim.settle_in()
    honest = Honest(victim.caller, report)
    honest.measure_alone(seconds=alone_seconds)

    def left(share: float) -> float:
        return max(1.0, share * (seconds - (time.monotonic() - began)))

    if "headers" in parts:
        _tell("Headers and addresses")
        HeaderAttack(nobody, attacker, victim, report).run()
    if "routes" in parts:
        _tell("Routes")
        RouteAttack(nobody, attacker, victim, report, more_paths=routes()).run(share=routes_share, seed=seed)
    if "connections" in parts:
        _tell("Connections")
        held = ConnectionAttack(attacker, honest, report, web_pid=installation.web_pid)
        held.run(count=connections, seconds=hold_seconds, only=kinds)
    if "bombs" in parts:
        _tell("Bombs")
        BombAttack(attacker, victim, honest, report).run(seconds=left(0.6), only=bombs)
    if "nodes" in parts:
        _tell("Nodes")
        outside = str(installation.outside) if installation.comfyui else ""
        nodes = NodeAttack(attacker, victim, report, outside=outside)
        nodes.denied()
        with honest.beside("nodes"):
            nodes.run(seconds=left(1.0), seed=seed, classes=classes)
    _look_back(installation, victim, report)
    report.note(f"{'seconds in all':42} {time.monotonic() - began:.0f}")
    return report


def _look_back(installation: Installation, victim: Victim, report: Report) -> None:
    """What is left of the victim's things, and what lies where nothing should."""
    report.tried("the victim's things afterwards")
    for path in victim.changes():
        report.leak("the victim's things afterwards", f"{path} is not as it was")
    status, _ = victim.wait_for_own(seconds=120)
    if status != "completed":
        report.leak("the victim's things afterwards", f"its next execution is {status}")
    installation.look_for_strays(report)


def _tell(text: str) -> None:
    print(text, flush=True)
