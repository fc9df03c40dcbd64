"""What a test needs to run against both a real ComfyUI and the scripted one."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

Graph = dict[str, Any]


def picture(*, prefix: str | None = None, width: int = 16) -> Graph:
    """A few milliseconds, no model. Never the same twice, so that nothing of it is cached."""
    colour = uuid.uuid4().int % 2**24
    return {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": width, "height": 16, "batch_size": 1, "color": colour},
        },
        "2": {
            "class_type": "SaveImage",
            "inputs": {"images": ["1", 0], "filename_prefix": prefix or f"t{uuid.uuid4().hex}"},
        },
    }


def partly_wrong() -> Graph:
    """One output that can run and one that cannot."""
    bad = picture(width=0)
    return picture() | {"8": bad["1"], "9": bad["2"] | {"inputs": bad["2"]["inputs"] | {"images": ["8", 0]}}}


def failing() -> Graph:
    """Its node 4 raises while it runs, after node 2 has written a picture: ComfyUI takes an output node
    first, and 4 waits for 3."""
    graph = picture()
    bad = {"images": ["3", 0], "filename_prefix": "../../evil"}
    return graph | {
        "3": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "4": {"class_type": "SaveImage", "inputs": bad},
    }


def text(content: str) -> Graph:
    return {"5": {"class_type": "PreviewAny", "inputs": {"source": content}}}


def sampling(*, steps: int, prefix: str | None = None) -> Graph:
    """The tiny models: 30 ms a step."""
    inputs = {"seed": uuid.uuid4().int % 2**60, "steps": steps, "cfg": 7.0, "denoise": 1.0}
    return {
        "1": {
            "class_type": "CheckpointLoaderSimple",
            "inputs": {"ckpt_name": "tiny-sd15.safetensors"},
        },
        "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "clouds"}},
        "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "4": {
            "class_type": "KSampler",
            "inputs": inputs
            | {"sampler_name": "euler", "scheduler": "normal", "model": ["1", 0]}
            | {"positive": ["2", 0], "negative": ["2", 0], "latent_image": ["3", 0]},
        },
        "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
        "6": {
            "class_type": "SaveImage",
            "inputs": {"images": ["5", 0], "filename_prefix": prefix or f"t{uuid.uuid4().hex}"},
        },
    }


def scripted_steps(*, seconds: float, steps: int) -> Graph:
    graph = picture()
    graph["1"] = {
        "class_type": "Sleep",
        "inputs": {"seconds": seconds, "steps": steps, "x": uuid.uuid4().hex},
    }
    return graph


@dataclass(frozen=True)
class Target:
    name: str
    url: str

    @property
    def is_real(self) -> bool:
        return self.name == "real"

    def long(self) -> Graph:
        """Half a minute at least, unless interrupted."""
        return sampling(steps=2000) if self.is_real else scripted_steps(seconds=300.0, steps=1000)

    def short_steps(self) -> Graph:
        """Four steps, each with a preview."""
        return sampling(steps=4) if self.is_real else scripted_steps(seconds=0.04, steps=4)
