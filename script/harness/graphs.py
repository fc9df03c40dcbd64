"""Workflows for tests, in ComfyUI's API format."""

from __future__ import annotations

from typing import Any

Graph = dict[str, dict[str, Any]]


def colour(number: int, *, prefix: str = "colour") -> Graph:
    """An image of 16 by 16 pixels, all of the colour `number` (0xRRGGBB), so that the result is
    predictable.
    """
    return {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": number},
        },
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
    }


def txt2img(*, steps: int = 4, size: int = 64, seed: int = 1, text: str = "clouds") -> Graph:
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "tiny-sd15.safetensors"}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": text, "clip": ["1", 1]}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["1", 1]}},
        "4": {"class_type": "EmptyLatentImage", "inputs": {"width": size, "height": size, "batch_size": 1}},
        "5": {
            "class_type": "KSampler",
            "_meta": {"title": "Sampler"},
            "inputs": {
                "seed": seed, "steps": steps, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal",
                "denoise": 1.0, "model": ["1", 0], "positive": ["2", 0], "negative": ["3", 0],
                "latent_image": ["4", 0],
            },
        },
        "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["1", 2]}},
        "7": {"class_type": "SaveImage", "inputs": {"images": ["6", 0], "filename_prefix": "picture"}},
    }  # fmt: skip


def gate(name: str, *, steps: int = 1) -> Graph:
    """Runs until ComfyUI's folder `user` has a file of this name: a custom node, see tests/comfyui_nodes."""
    return {
        "1": {"class_type": "TestGate", "inputs": {"name": name, "steps": steps}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "gated"}},
    }


def sleep(seconds: float, *, steps: int = 10, seed: int = 0) -> Graph:
    """Takes this long in this many steps without using the CPU: a custom node, see tests/comfyui_nodes."""
    return {
        "1": {"class_type": "TestSleep", "inputs": {"seconds": seconds, "steps": steps, "seed": seed}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "slept"}},
    }
