"""Warnings in the result about input that ComfyUI silently accepts but does not treat as intended.

Also normalises the path separator in model names, which depends on the system that saved the workflow.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from comfyserve.near_names import did_you_mean, near

from . import links, refusals
from .links import Prompt
from .node_info import Classes, Input

EMBEDDING = re.compile(r"embedding:([^\s,;()\[\]{}<>|:]+)", re.IGNORECASE)
EXTENSIONS = re.compile(r"\.(safetensors|pt|bin|sft)$", re.IGNORECASE)
# ComfyUI types that no widget can produce; ComfyUI does not validate literal values given for them.
LINKED_ONLY = {
    "IMAGE", "MASK", "LATENT", "MODEL", "CLIP", "VAE", "CONDITIONING", "CONTROL_NET", "CLIP_VISION",
    "CLIP_VISION_OUTPUT", "STYLE_MODEL", "UPSCALE_MODEL", "AUDIO", "VIDEO",
    "NOISE", "SAMPLER", "SIGMAS", "GUIDER",
}  # fmt: skip
MAX_WARNINGS = 20


def warnings(prompt: Prompt, classes: Classes, embeddings: Collection[str] | None) -> list[str]:
    """At most MAX_WARNINGS warnings, a sentence each. `embeddings`: those its ComfyUI has; None: unknown."""
    found = [*_misread(prompt, classes), *_missing_embeddings(prompt, embeddings)]
    return found[:MAX_WARNINGS]


def _misread(prompt: Prompt, classes: Classes) -> Iterator[str]:
    for node_id, node in prompt.items():
        declared = classes[node["class_type"]].inputs if node["class_type"] in classes else {}
        for name, value in node["inputs"].items():
            if name in declared:
                said = _converted(name, value, declared[name])
            else:
                meant = near(name, declared.keys() - node["inputs"].keys(), cutoff=0.75)
                said = f"it has no input '{name}', which is ignored{did_you_mean(meant)}" if meant else None
            if said:
                yield f"{refusals.named(prompt, node_id)}: {said}"


def _converted(name: str, value: object, about: Input) -> str | None:
    """Describe how ComfyUI treats a value of the wrong type; None if the type is right."""
    if about.kind in LINKED_ONLY and not isinstance(value, list):
        given = links.written(value, 40)
        return f"input '{name}' is {given}, but takes {about.kind} by a link [node id, output]"
    if about.kind == "BOOLEAN" and isinstance(value, str) and value:
        return f"input '{name}' is the text {value[:40]!r}, which ComfyUI takes for true; send true or false"
    if about.kind == "INT" and isinstance(value, float) and value != int(value):
        return f"input '{name}' is {value}, of which ComfyUI takes {int(value)}"
    return None


def _missing_embeddings(prompt: Prompt, embeddings: Collection[str] | None) -> Iterator[str]:
    if embeddings is None:
        return
    known = {_stem(name): name for name in embeddings}
    for node_id, node in prompt.items():
        for value in node["inputs"].values():
            for name in EMBEDDING.findall(value) if isinstance(value, str) else ():
                if _stem(name) not in known:
                    alike = did_you_mean(near(name, known.values()))
                    where = refusals.named(prompt, node_id)
                    yield f"{where}: the embedding '{name}' is not installed and has no effect{alike}"


def _stem(name: str) -> str:
    return EXTENSIONS.sub("", name.replace("\\", "/")).lower()


def with_separators(prompt: Prompt, classes: Classes) -> Prompt:
    """Return the prompt with model names as this ComfyUI lists them, if they differ only in / and \\."""
    done = dict(prompt)
    for node_id, node in prompt.items():
        declared = classes[node["class_type"]].inputs if node["class_type"] in classes else {}
        for name, value in node["inputs"].items():
            options = declared[name].options if name in declared else None
            if (
                not options
                or not isinstance(value, str)
                or value in options
                or not re.search(r"[/\\]", value)
            ):
                continue
            for other in (value.replace("\\", "/"), value.replace("/", "\\")):
                if other in options:
                    done[node_id] = {**done[node_id], "inputs": {**done[node_id]["inputs"], name: other}}
    return done
