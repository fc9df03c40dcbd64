"""ComfyUI: the workers' reports, and the one at COMFYUI_URL itself."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import requests
from django.conf import settings
from django.db import DatabaseError

from comfyui import Client, Unreachable
from comfyui.bridge import SUPPORTED
from health.checks import explain
from workflows.fleet import overview

from .findings import Finding, bad, good, note

OLDEST = (0, 3, 40)
BRIDGE = "/comfyserve/bridge"
START_ONE = "Start a GPU worker: script/worker gpu"


def workers() -> Iterator[Finding]:
    try:
        rows = [row for row in overview.rows() if not overview.has_left(row)]
    except DatabaseError:
        return  # reported by `database` or `migrations`
    if not rows:
        yield bad("workers", "no GPU worker has reported", START_ONE)
    for row in rows:
        seen = f"{row.name}: {row.status}"
        if row.status == "active":
            yield good("workers", seen)
        elif row.status == "silent":
            yield bad("workers", f"{seen} for {row.silent_seconds:.0f} s", "See its log and restart it")
        elif row.status == "unreachable":
            yield bad(
                "workers", f"{seen}, its ComfyUI does not respond", f"Start ComfyUI at {row.worker.url}"
            )
        else:
            yield note("workers", seen)


def direct() -> Iterator[Finding]:
    """The ComfyUI at COMFYUI_URL, if this machine has one."""
    for url in settings.COMFYUI_URL.split(","):
        yield from _one(url.strip())


def _one(url: str) -> Iterator[Finding]:
    try:
        with Client(url, headers=settings.COMFYUI_HEADERS, timeout=5) as client:
            stats = client.system_stats()
    except Unreachable as exc:
        to_do = "Start ComfyUI, or fix COMFYUI_URL; ignore this if only other machines have one"
        yield note("comfyui", f"{url} does not respond ({explain(exc)})", to_do)
        return
    device = ", ".join(device.name for device in stats.devices)
    seen = f"{url}: version {stats.version or 'unknown'}, PyTorch {stats.pytorch}, on {device}"
    if _numbers(stats.version) < OLDEST:
        yield bad("comfyui", seen, f"Update ComfyUI to {'.'.join(map(str, OLDEST))} or newer")
    else:
        yield good("comfyui", seen)
    yield from _options(stats.argv)
    yield from _bridge(url)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _options(argv: Sequence[str]) -> Iterator[Finding]:
    if "--cache-lru" not in argv:
        yield note(
            "comfyui",
            "started without --cache-lru: every other workflow unloads the models",
            "Start it with --cache-lru 100",
        )
    if "--preview-method" not in argv:
        yield note("comfyui", "started without --preview-method", "Start it with --preview-method latent2rgb")


def _version(answer: requests.Response) -> int | None:
    try:
        return int(answer.json()["version"])
    except (ValueError, KeyError, TypeError):
        return None


def _bridge(url: str) -> Iterator[Finding]:
    try:
        answer = requests.get(url + BRIDGE, headers=settings.COMFYUI_HEADERS, timeout=5)
    except requests.RequestException:
        return
    if answer.status_code == 200 and _version(answer) == SUPPORTED:
        yield good("bridge", "ComfyUI has our bridge: each execution has folders of its own")
    else:
        to_do = "Copy comfyui_bridge/ into ComfyUI's custom_nodes and restart it"
        yield note(
            "bridge",
            "ComfyUI has no bridge, or an old one: users' files are not isolated there, so that "
            "more nodes are denied; memory and models are not shown, its folders not cleaned",
            to_do,
        )
