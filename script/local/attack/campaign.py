"""Runs one complete attack."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from script.local.attack.addresses import AddressAttack
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

LEAST_SECONDS = 10.0  # of a part that lasts as long as there is time


@dataclass(frozen=True)
class Extent:
    """How much is tried. A field whose default is None restricts the tries, for tests."""

    seconds: float
    seed: int
    connections: int = 200
    routes_share: float = 1.0  # of the routes' combinations
    classes: Sequence[str] | None = None
    bombs: frozenset[str] | None = None
    kinds: frozenset[str] | None = None  # of connections
    addresses: frozenset[str] | None = None
    alone_seconds: float = 5.0  # measuring the honest client alone
    hold_seconds: float = 10.0  # for which connections are held


def attack(
    installation: Installation,
    extent: Extent,
    *,
    parts: Collection[str] = PARTS,
    accounts: tuple[str, str] = ("", ""),
) -> Report:
    """UserError if the accounts do not work."""
    began, report, canaries = time.monotonic(), Report(), Canaries()
    installation.plant(canaries)
    attacker = log_in(installation.url, "attacker", accounts[0])
    victim = Victim(log_in(installation.url, "victim", accounts[1]), canaries)
    victim.settle_in()
    honest = Honest(victim.caller, report)
    honest.measure_alone(seconds=extent.alone_seconds)
    attacks = _Attacks(installation, extent, report, attacker, victim, honest, until=began + extent.seconds)
    for name in ("headers", "addresses", "routes", "connections", "bombs", "nodes"):
        if name in parts:
            print(name.capitalize(), flush=True)
            getattr(attacks, name)()
    _look_back(installation, victim, report)
    report.note(f"{'seconds in all':42} {time.monotonic() - began:.0f}")
    return report


@dataclass(frozen=True)
class _Attacks:
    """A method for each of PARTS."""

    installation: Installation
    extent: Extent
    report: Report
    attacker: Caller
    victim: Victim
    honest: Honest
    until: float  # of time.monotonic()

    def headers(self) -> None:
        HeaderAttack(self._nobody(), self.attacker, self.victim, self.report).run()

    def addresses(self) -> None:
        AddressAttack(self.attacker, self.victim, self.report, receiver=self.installation.receiver).run(
            only=self.extent.addresses
        )

    def routes(self) -> None:
        attack = RouteAttack(self._nobody(), self.attacker, self.victim, self.report, more_paths=routes())
        attack.run(share=self.extent.routes_share, seed=self.extent.seed)

    def connections(self) -> None:
        attack = ConnectionAttack(self.attacker, self.honest, self.report, web_pid=self.installation.web_pid)
        extent = self.extent
        attack.run(count=extent.connections, seconds=extent.hold_seconds, only=extent.kinds)

    def bombs(self) -> None:
        attack = BombAttack(self.attacker, self.victim, self.honest, self.report)
        attack.run(seconds=self._left(0.6), only=self.extent.bombs)

    def nodes(self) -> None:
        outside = str(self.installation.outside) if self.installation.comfyui else ""
        attack = NodeAttack(self.attacker, self.victim, self.report, outside=outside)
        attack.denied()
        with self.honest.beside("nodes"):
            attack.run(seconds=self._left(1.0), seed=self.extent.seed, classes=self.extent.classes)

    def _nobody(self) -> Caller:
        return Caller(self.installation.url, "anonymous")

    def _left(self, share: float) -> float:
        """That share of the seconds that are left, and enough to try something after slow parts."""
        return max(LEAST_SECONDS, share * (self.until - time.monotonic()))


def _look_back(installation: Installation, victim: Victim, report: Report) -> None:
    """Check that the victim's data is unchanged and no files were written outside the allowed folders."""
    report.tried("the victim's objects afterwards")
    for path in victim.changes():
        report.leak("the victim's objects afterwards", f"{path} has changed")
    status, _ = victim.wait_for_own(seconds=120)
    if status != "completed":
        report.leak("the victim's objects afterwards", f"its next execution: {status}")
    installation.look_for_strays(report)
