"""A tiny workflow, from submission to the downloaded image: ComfyUI itself, ComfyServe, and others.

Every way is asked in turn, in the same run and, but for peers of your own, on the same ComfyUI:

    raw                 POST /prompt, the websocket until it has ended, GET /view
    Prefer: wait        POST /workflows/execute, which answers with the result and the picture in it
    Prefer: wait, link  the same without the picture, and GET of its URL
    live stream         POST /workflows/execute, which answers with the events, the picture in the last one
    live stream, links  POST /workflows/execute, its server-sent events until the end, the result, the picture
    --salad URL         POST /prompt of SaladTechnologies/comfyui-api, which answers with the picture
    --proxy URL         comfy-api-proxy, by the official comfy-sdk

ComfyUI's latency and what each way adds to it are printed, and the latter as a ratio to the former. A peer may lose workflows: those are counted, and have no latency.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # instead of benchmarks/, whose queue.py would hide Python's own

import base64  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import time  # noqa: E402
from collections import Counter  # noqa: E402
from collections.abc import Callable  # noqa: E402
from typing import Any  # noqa: E402

import requests  # noqa: E402

from benchmarks.direct import Direct  # noqa: E402
from benchmarks.services import Services, command_line, percentile, print_table, say  # noqa: E402
from script.harness import graphs  # noqa: E402
from script.harness.stack import Person  # noqa: E402

WARM_UP = 10  # warm-up rounds
PATIENCE = 60.0  # seconds for one workflow
PNG = b"\x89PNG"

Way = Callable[[graphs.Graph], bytes]  # runs a workflow; returns the bytes of its image


class Lost(Exception):
    """A peer did not complete the workflow."""


def waited(person: Person) -> Way:
    def run(graph: graphs.Graph) -> bytes:
        path = "/workflows/execute?include=data"
        answer = person.post(path, {"workflow": graph}, headers={"Prefer": "wait=30"})
        return _included(answer.json())

    return run


def streamed(person: Person) -> Way:
    def run(graph: graphs.Graph) -> bytes:
        path = "/workflows/execute?include=data"
        events = person.post(path, {"workflow": graph}, headers={"Accept": "text/event-stream"}).text
        _, _, end = events.partition("event: end\ndata: ")
        return _included(json.loads(end))

    return run


def _included(result: dict[str, Any]) -> bytes:
    [image] = result["outputs"]["images"]
    return base64.b64decode(image["data"])


def waited_and_downloaded(person: Person) -> Way:
    def run(graph: graphs.Graph) -> bytes:
        answer = person.post("/workflows/execute", {"workflow": graph}, headers={"Prefer": "wait=30"})
        return _picture(person, answer.json())

    return run


def streamed_and_downloaded(person: Person) -> Way:
    def run(graph: graphs.Graph) -> bytes:
        execution_id = person.execute(graph)
        stream = person.get(
            f"/workflows/{execution_id}/events"
        )  # to its end, after which the connection is free
        if "event: end" not in stream.text:
            raise RuntimeError(stream.text)
        return _picture(person, person.get(f"/workflows/{execution_id}").json())

    return run


def _picture(person: Person, result: dict[str, Any]) -> bytes:
    [image] = result["outputs"]["images"]
    return person.get(image["url"].removeprefix(person.url)).content


def salad(url: str) -> Way:
    http = requests.Session()

    def run(graph: graphs.Graph) -> bytes:
        answer = http.post(f"{url.rstrip('/')}/prompt", json={"prompt": graph}, timeout=PATIENCE)
        if not answer.ok:
            raise Lost(answer.text)
        return base64.b64decode(answer.json()["images"][0])

    return run


def proxy(url: str) -> Way:
    import comfy_sdk

    os.environ["COMFY_BASE_URL"] = url  # the only way to tell it
    client = comfy_sdk.Comfy(api_key="benchmark")

    def run(graph: graphs.Graph) -> bytes:
        try:
            job = client.run(client.workflows.from_json(graph))
        except comfy_sdk.JobFailed as exc:
            raise Lost(str(exc)) from exc
        data: bytes = job.outputs[0].to_bytes()
        return data

    return run


def measure(ways: dict[str, Way], *, rounds: int) -> tuple[dict[str, list[float]], Counter[str]]:
    """Milliseconds of each way in each round, and how many workflows it lost; its order changes from round to
    round.
    """
    taken: dict[str, list[float]] = {name: [] for name in ways}
    lost: Counter[str] = Counter()
    names = list(ways)
    for number in range(WARM_UP + rounds):
        turn = number % len(names)
        for place, name in enumerate(names[turn:] + names[:turn]):
            graph = graphs.colour(number * len(names) + place + 1)
            began = time.perf_counter()
            try:
                picture = ways[name](graph)
            except Lost as exc:
                say(f"{name}: {exc}")
                lost[name] += 1
                continue
            ended = time.perf_counter()
            if not picture.startswith(PNG):
                raise RuntimeError(f"{name}: no picture: {picture[:200]!r}")
            if number >= WARM_UP:
                taken[name].append(1000 * (ended - began))
    return taken, lost


def table(taken: dict[str, list[float]], lost: Counter[str]) -> list[list[object]]:
    plain = percentile(taken["raw"], 0.5)
    rows: list[list[object]] = []
    for name, values in taken.items():
        middle, late = percentile(values, 0.5), percentile(values, 0.99)
        added = middle - plain
        added_late = percentile([value - plain for value in values], 0.99)
        more: list[object] = ["", "", ""] if name == "raw" else [added, added_late, added / plain]
        rows.append([name, middle, late, *more, lost[name]])
    return rows


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=100, help="of each way (default 100)")
    parser.add_argument("--salad", help="address of a comfyui-api of Salad's")
    parser.add_argument("--proxy", help="address of a comfy-api-proxy")
    options = parser.parse_args()
    with Services() as services:
        say("starting the services")
        comfyui = services.start_comfyui()
        stack = services.start_stack()
        stack.start_worker(comfyui_url=comfyui.url)
        person = stack.person()
        ways = {
            "raw": Direct(comfyui.url).picture,
            "Prefer: wait": waited(person),
            "Prefer: wait, link": waited_and_downloaded(person),
            "live stream": streamed(person),
            "live stream, links": streamed_and_downloaded(person),
        }
        if options.salad:
            ways["salad"] = salad(options.salad)
        if options.proxy:
            ways["proxy"] = proxy(options.proxy)
        say(f"{options.rounds} rounds")
        rows = table(*measure(ways, rounds=options.rounds))
        head = ["to the picture, ms", "p50", "p99", "added p50", "added p99", "added / raw", "lost"]
        print_table(head, rows)


if __name__ == "__main__":
    main()
