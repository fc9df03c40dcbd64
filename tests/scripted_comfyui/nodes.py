"""The node classes of the scripted ComfyUI: some of the stock ones' outer shape, and a few that misbehave."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

# A picture of 1 by 1 pixel.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)

Output = Mapping[str, Any] | None


class Run(Protocol):
    """What a node may do while it runs."""

    prompt_id: str
    node_id: str

    async def sleep(self, seconds: float) -> None:
        """Returns early, by an exception, when the prompt is interrupted."""

    async def progress(self, value: float, maximum: float) -> None: ...

    async def expand(self, name: str) -> Run:
        """A node that this one expands to, begun."""

    async def end(self) -> None:
        """For what `expand` gave."""

    async def preview(self, image: bytes) -> None: ...

    def save(self, content: bytes, *, prefix: str, extension: str, folder: str = "output") -> dict[str, str]:
        """Keep a file under a name with a running number; returns how ComfyUI names it."""


@dataclass(frozen=True)
class NodeClass:
    """`run` gives what history is to show, None for nothing. `required` are input names and types."""

    run: Callable[[Run, Mapping[str, Any]], Awaitable[Output]]
    required: Mapping[str, Any] = field(default_factory=dict)
    returns: tuple[str, ...] = ()
    is_output: bool = False


async def nothing(_run: Run, _inputs: Mapping[str, Any]) -> Output:
    return None


async def save_image(run: Run, inputs: Mapping[str, Any]) -> Output:
    if ".." in inputs["filename_prefix"]:  # the handiest way to make the real one fail, too
        raise Exception("Saving image outside the output folder is not allowed.")
    return {"images": [run.save(PNG, prefix=inputs["filename_prefix"], extension="png")]}


async def preview_any(_run: Run, inputs: Mapping[str, Any]) -> Output:
    source = inputs["source"]
    return {"text": ["a result" if isinstance(source, list) else str(source)]}


async def sleep(run: Run, inputs: Mapping[str, Any]) -> Output:
    """`seconds` in `steps` steps, each with progress and a preview."""
    steps = int(inputs.get("steps", 1))
    for step in range(steps):
        await run.sleep(float(inputs["seconds"]) / steps)
        await run.progress(step + 1, steps)
        await run.preview(PNG)
    return None


async def fail(_run: Run, inputs: Mapping[str, Any]) -> Output:
    raise RuntimeError(str(inputs.get("message", "told to fail")))


async def stall(run: Run, _inputs: Mapping[str, Any]) -> Output:
    """Never ends by itself, but can be interrupted."""
    await run.sleep(1e9)
    return None


async def loop(run: Run, inputs: Mapping[str, Any]) -> Output:
    """As loops are made: each of `times` rounds expands to a body, of `steps` steps, and the next round."""
    rounds = [run]
    for _ in range(int(inputs["times"])):
        body = await rounds[-1].expand("body")
        for step in range(int(inputs.get("steps", 0))):
            await body.progress(step + 1, int(inputs["steps"]))
        await body.end()
        rounds.append(await rounds[-1].expand("again"))
    for each in reversed(rounds[1:]):
        await each.end()
    return None


async def deaf(_run: Run, inputs: Mapping[str, Any]) -> Output:
    """Takes no notice of an interrupt for `seconds`, as a long sampling step does."""
    await asyncio.sleep(float(inputs["seconds"]))
    return None


def gate(opened: threading.Event) -> NodeClass:
    """Runs until the event is set: for tests that act during a run, however long they take."""

    async def wait(run: Run, _inputs: Mapping[str, Any]) -> Output:
        while not opened.is_set():
            await run.sleep(0.02)
        return None

    return NodeClass(run=wait, returns=("IMAGE",))


def stock() -> dict[str, NodeClass]:
    """Misbehaving ones hand on an image, so that a SaveImage may hang on them."""
    number = ["FLOAT", {"default": 1.0, "min": 0.0, "max": 100000.0}]
    size = ["INT", {"default": 512, "min": 1, "max": 16384}]
    return {
        "EmptyImage": NodeClass(
            run=nothing,
            required={"width": size, "height": size, "batch_size": size, "color": ["INT", {"min": 0}]},
            returns=("IMAGE",),
        ),
        "ImageInvert": NodeClass(run=nothing, required={"image": ["IMAGE"]}, returns=("IMAGE",)),
        "SaveImage": NodeClass(
            run=save_image,
            required={"images": ["IMAGE"], "filename_prefix": ["STRING", {"default": "ComfyUI"}]},
            is_output=True,
        ),
        "PreviewAny": NodeClass(run=preview_any, required={"source": ["*", {}]}, is_output=True),
        "Sleep": NodeClass(run=sleep, required={"seconds": number}, returns=("IMAGE",)),
        "Fail": NodeClass(run=fail, returns=("IMAGE",)),
        "Loop": NodeClass(
            run=loop, required={"image": ["IMAGE"], "times": ["INT", {"min": 1}]}, returns=("IMAGE",)
        ),
        "Stall": NodeClass(run=stall, returns=("IMAGE",)),
        "Deaf": NodeClass(run=deaf, required={"seconds": number}, returns=("IMAGE",)),
    }
