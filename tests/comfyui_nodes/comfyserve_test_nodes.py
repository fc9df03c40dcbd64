"""Custom nodes for a real ComfyUI that tests need: time without CPU load, failures, crashes.

Loaded by the `comfyui` fixtures and by benchmarks. Runs inside ComfyUI, so it imports ComfyUI's modules.
"""

from __future__ import annotations

import gc
import os
import re
import time
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from comfy_execution.graph_utils import GraphBuilder
from server import PromptServer


class TestSleep:
    """Takes `seconds` in `steps` steps with a progress bar, as a sampler on a GPU: the CPU stays free."""

    CATEGORY = "test"
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {
            "required": {
                "seconds": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 3600.0}),
                "steps": ("INT", {"default": 10, "min": 1, "max": 100_000}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**63}),
            }
        }

    def run(self, seconds: float, steps: int, seed: int) -> tuple[torch.Tensor]:
        bar = comfy.utils.ProgressBar(steps)
        for _ in range(steps):
            self._rest(seconds / steps)
            bar.update(1)
        return (torch.full((1, 8, 8, 3), (seed % 256) / 255),)

    def _rest(self, seconds: float) -> None:
        """So long, but over at once when the prompt is cancelled: a sampler's steps are short."""
        end = time.monotonic() + seconds
        while True:
            comfy.model_management.throw_exception_if_processing_interrupted()
            left = end - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, 0.1))


class TestGate:
    """Runs until the folder `user` has a file of this name: for tests that act during a run. Until then it
    takes up to `steps` steps of 50 ms, with a progress bar."""

    CATEGORY = "test"
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        steps = ("INT", {"default": 1, "min": 1, "max": 100_000})
        return {"required": {"name": ("STRING", {"default": "open"}), "steps": steps}}

    def run(self, name: str, steps: int) -> tuple[torch.Tensor]:
        opened = Path(folder_paths.get_user_directory()) / name
        bar = comfy.utils.ProgressBar(steps)
        while not opened.exists():
            comfy.model_management.throw_exception_if_processing_interrupted()
            time.sleep(0.05)
            if bar.current < steps - 1:
                bar.update(1)
        bar.update_absolute(steps)
        return (torch.zeros((1, 8, 8, 3)),)


class TestFail:
    """Raises `message` in mid-run."""

    CATEGORY = "test"
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"image": ("IMAGE",), "message": ("STRING", {"default": "it broke"})}}

    def run(self, image: torch.Tensor, message: str) -> tuple[torch.Tensor]:
        raise RuntimeError(message)


class TestCrash:
    """Ends the whole ComfyUI process, as a driver or the kernel's memory killer would."""

    CATEGORY = "test"
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"image": ("IMAGE",)}}

    def run(self, image: torch.Tensor) -> tuple[torch.Tensor]:
        os._exit(139)


class TestHang:
    """Never returns and heeds no interruption; with `silent`, no other Python thread runs any more."""

    CATEGORY = "test"
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"image": ("IMAGE",), "silent": ("BOOLEAN", {"default": False})}}

    def run(self, image: torch.Tensor, silent: bool) -> tuple[torch.Tensor]:
        if silent:
            re.match(r"(a+)+$", "a" * 64 + "b")  # holds the interpreter lock for longer than anybody lives
        while True:
            time.sleep(0.1)


class TestLoop:
    """Inverts an image `times` times: each round expands to the inversion and the next round."""

    CATEGORY = "test"
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"image": ("IMAGE",), "times": ("INT", {"default": 1, "min": 0, "max": 100})}}

    def run(self, image: torch.Tensor, times: int) -> Any:
        if times == 0:
            return (image,)
        graph = GraphBuilder()
        inverted = graph.node("ImageInvert", "body", image=image)
        again = graph.node("TestLoop", "again", image=inverted.out(0), times=times - 1)
        return {"result": (again.out(0),), "expand": graph.finalize()}


class TestGarbage:
    """Shows how many objects the garbage collector looks through, and how many it has been told to skip."""

    CATEGORY = "test"
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {}}

    def run(self) -> dict[str, Any]:
        return {"ui": {"text": [f"{len(gc.get_objects())} {gc.get_freeze_count()}"]}}


class TestLateFlag:
    """After this prompt, ComfyUI has read its queue's flags just before the next one is set: as when it
    collects garbage in between, which it does after a prompt."""

    CATEGORY = "test"
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"seed": ("INT", {"default": 0, "min": 0, "max": 2**63})}}

    def run(self, seed: int) -> dict[str, Any]:
        queue = PromptServer.instance.prompt_queue
        get_flags = queue.get_flags

        def get_flags_late(reset: bool = True) -> Any:
            queue.get_flags = get_flags
            found = get_flags(reset)
            until = time.monotonic() + 10
            while not queue.flags and time.monotonic() < until:
                time.sleep(0.01)
            return found

        queue.get_flags = get_flags_late
        return {"ui": {"text": [str(seed)]}}


NODE_CLASS_MAPPINGS = {
    "TestSleep": TestSleep,
    "TestGate": TestGate,
    "TestFail": TestFail,
    "TestCrash": TestCrash,
    "TestHang": TestHang,
    "TestLoop": TestLoop,
    "TestGarbage": TestGarbage,
    "TestLateFlag": TestLateFlag,
}
