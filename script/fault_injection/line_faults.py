"""Network faults: links that are cut, stalled and slow, and a proxy in front of ComfyUI."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from script.fault_injection.cluster import Cluster
from script.fault_injection.fault import BRIEF, Fault, Undo, nothing
from script.fault_injection.http_proxy import WELL, HttpProxy, Trouble
from script.harness.relay import Proxy

SLOW = {"storage": 2.0, "PostgreSQL": 0.2, "ComfyUI": 1.0, "Valkey": 0.5}  # seconds per chunk
LOGIN = {"Location": "https://login.invalid/"}
TROUBLES = {
    **{
        f"answers {status}": Trouble(status=status)
        for status in (400, 401, 403, 404, 407, 413, 429, 502, 503, 504)
    },
    "redirects to a login": Trouble(status=302, headers=LOGIN),
    "returns an HTML page with 200": Trouble(status=200),
    "loses responses": Trouble(lose=True),
    "truncates responses": Trouble(truncate=True),
    "is slow": Trouble(delay=1.5),
}


def of(cluster: Cluster) -> Iterator[Fault]:
    for name, line in cluster.links.items():
        kind = name.partition(" of ")[0]
        cut, hold = partial(_cut, line), partial(_hold, line)
        yield Fault(f"line to {kind} cut", (name,), cut, (BRIEF, (2.0, 12.0)))
        yield Fault(f"line to {kind} held", (name,), hold, ((1.0, 5.0), (8.0, 20.0)))
        yield Fault(f"line to {kind} slow", (name,), partial(_slow, line, SLOW[kind]), ((5.0, 20.0),))
    for name, proxy in cluster.proxies.items():
        for what, trouble in TROUBLES.items():
            begin = partial(_trouble, proxy, trouble)
            yield Fault(
                f"proxy in front of ComfyUI {what}", (f"ComfyUI of {name}",), begin, (BRIEF, (2.0, 15.0))
            )
        drop = partial(_drop_sockets, proxy)
        yield Fault("proxy in front of ComfyUI drops websockets", (f"ComfyUI of {name}",), drop, (BRIEF,))


def _cut(line: Proxy) -> Undo:
    line.cut()
    return line.mend


def _hold(line: Proxy) -> Undo:
    line.hold()
    return line.mend


def _slow(line: Proxy, seconds: float) -> Undo:
    line.slow(seconds)
    return line.mend


def _trouble(proxy: HttpProxy, trouble: Trouble) -> Undo:
    proxy.trouble = trouble

    def end() -> None:
        proxy.trouble = WELL

    return end


def _drop_sockets(proxy: HttpProxy) -> Undo:
    proxy.drop_sockets()
    return nothing
