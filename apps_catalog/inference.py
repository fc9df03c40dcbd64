"""Infers an app's undeclared inputs and outputs: from the editor's app mode, or from the graph."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from workflows.graph import parsing
from workflows.graph.parsing import Prompt

from . import definitions
from .definitions import InputDefinition
from .parameters import FILES, SEEDS, NamedOutput, Parameter

SAVING = {  # output nodes of ComfyUI itself, until a worker has reported its own
    "SaveImage", "PreviewImage", "SaveAnimatedWEBP", "SaveAnimatedPNG", "SaveWEBM", "SaveVideo", "SaveAudio",
    "SaveAudioMP3", "SaveAudioOpus", "PreviewAudio", "PreviewAny", "SaveGLB",
}  # fmt: skip
LOADERS = {  # the same for nodes that load a file
    ("LoadImage", "image"): "image",
    ("LoadImageMask", "image"): "mask",
    ("LoadAudio", "audio"): "audio",
    ("LoadVideo", "file"): "video",
    ("Load3D", "model_file"): "file",
}
# Inputs that users expect to set, on whichever node, and the names they get.
EXPECTED = {"seed": "seed", "noise_seed": "seed", "steps": "steps", "width": "width", "height": "height"}
PROMPT_INPUTS = ("text", "prompt", "t5xxl", "clip_l")
DEPTH = 50  # links followed back from a sampler to its prompt
DEFAULT_TITLE = re.compile(
    r"CLIP Text Encode.*|Prompt|Load Image.*|Save Image|Empty Latent.*|KSampler.*", re.I
)


# -- one input -------------------------------------------------------------------------------------------
def parameter(prompt: Prompt, node_id: str, name: str, *, called: str) -> Parameter:
    """With the type, range and default from the graph and the workers."""
    node = prompt[node_id]
    definition = _definition(node, name)
    type_ = type_of(node, name, definition)
    value = node["inputs"].get(name)
    if parsing.link(value):
        value = None
    options = definition.options if definition else {}
    is_file = type_ in FILES
    default = None if is_file and not _is_stored(value) else value
    ranged = type_ in ("integer", "number")
    return Parameter(
        name=called,
        node=node_id,
        input=name,
        type=type_,
        title=called.replace("_", " ").capitalize(),
        description=str(options.get("tooltip") or "")[:500],
        default=default,
        required=default is None and name not in SEEDS,
        minimum=_number(options.get("min")) if ranged else None,
        maximum=_number(options.get("max")) if ranged else None,
        step=_number(options.get("step")) if ranged else None,
    )


def _definition(node: Mapping[str, Any], name: str) -> InputDefinition | None:
    found = definitions.node(str(node["class_type"]))
    return found.inputs.get(name) if found else None


def type_of(node: Mapping[str, Any], name: str, definition: InputDefinition | None) -> str:
    """From the workers' report, else from ComfyUI's usual names, else from the value."""
    loader = LOADERS.get((str(node["class_type"]), name))
    if loader:
        return loader
    if definition and definition.upload:
        return definition.upload
    if name in parsing.MODEL_INPUTS:
        return "lora" if parsing.MODEL_INPUTS[name] == "lora" else "model"
    if definition:
        if definition.type == "STRING":
            return "text" if definition.options.get("multiline") else "string"
        if definition.type in ("INT", "FLOAT", "BOOLEAN", "COMBO"):
            return {"INT": "integer", "FLOAT": "number", "BOOLEAN": "boolean", "COMBO": "choice"}[
                definition.type
            ]
    return _type_of_value(name, node["inputs"].get(name))


def _type_of_value(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer" if name != "cfg" else "number"
    if isinstance(value, float):
        return "number"
    return "text" if name in PROMPT_INPUTS else "string"


def _is_stored(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("file_")


def _number(value: Any) -> float | int | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


# -- the editor's app mode -----------------------------------------------------------------------------------
def of_app_mode(workflow: Any, prompt: Prompt) -> tuple[list[Parameter], list[NamedOutput]]:
    """The selection in `extra.linearData` of an editor file; empty lists if it has none.

    `inputs` are `[node id, widget, config?]`, where the id is a node's or `graph:node:widget`.
    """
    extra = workflow.get("extra") if isinstance(workflow, dict) else None
    linear = extra.get("linearData") if isinstance(extra, dict) else None
    if not isinstance(linear, dict):
        return [], []
    names = _Names()
    inputs = []
    for entry in linear.get("inputs") or ():
        if not (isinstance(entry, list) and len(entry) >= 2):
            continue
        node_id, widget = _linear_node(str(entry[0]), prompt), str(entry[1])
        if node_id is None or parsing.link(prompt[node_id]["inputs"].get(widget)):
            continue
        config = entry[2] if len(entry) > 2 and isinstance(entry[2], dict) else {}
        title = str(config.get("label") or config.get("name") or _title_of_value(prompt, node_id) or widget)
        found = parameter(prompt, node_id, widget, called=names.take(title))
        inputs.append(replace(found, title=title[:200]))
    listed = [_linear_node(str(id_), prompt) for id_ in linear.get("outputs") or ()]
    return inputs, _named(prompt, [node_id for node_id in listed if node_id], names=_Names())


def _linear_node(named: str, prompt: Prompt) -> str | None:
    """The prompt's node: node ids within a subgraph are prefixed by those around it, with colons."""
    candidates = [named, *(":".join(named.split(":")[1:-1]) for _ in [0] if ":" in named)]
    candidates.append(named.rpartition(":")[0])
    return next((candidate for candidate in candidates if candidate in prompt), None)


# -- what a person would expect ------------------------------------------------------------------------------
class _Names:
    """Adds a number to names that are taken."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, wanted: str) -> str:
        base = re.sub(r"[^a-z0-9]+", "_", wanted.lower()).strip("_")[:50] or "input"
        base = base if base[0].isalpha() else f"input_{base}"
        name, number = base, 1
        while name in self._taken:
            number += 1
            name = f"{base}_{number}"
        self._taken.add(name)
        return name


def expected(prompt: Prompt) -> list[Parameter]:
    """Prompts first, then loaded files, then seed, size and steps, and values of nodes with a title."""
    names, done = _Names(), set()
    found: list[Parameter] = []
    places = [*_prompts(prompt), *_loaded(prompt), *_usual(prompt), *_titled(prompt)]
    for node_id, name, called in places:
        if (node_id, name) not in done:
            done.add((node_id, name))
            found.append(parameter(prompt, node_id, name, called=names.take(called)))
    return found


Place = tuple[str, str, str]  # node, input, the name that it should get


def _prompts(prompt: Prompt) -> Iterator[Place]:
    """Texts that samplers take as `positive` and `negative`, in this order; then all other texts."""
    for side, called in (("positive", "prompt"), ("negative", "negative_prompt")):
        for node in prompt.values():
            start = parsing.link(node["inputs"].get(side))
            if start and start[0] in prompt:
                yield from ((id_, name, called) for id_, name in _texts_behind(prompt, start[0]))
    for node_id, node in prompt.items():
        if "Encode" in node["class_type"]:
            yield from ((node_id, name, "prompt") for name in _texts_in(node))


def _texts_behind(prompt: Prompt, node_id: str) -> Iterator[tuple[str, str]]:
    """The nearest texts: nodes upstream of a text are not prompts of this side any more."""
    seen, waiting = {node_id}, [node_id]
    for _ in range(DEPTH):
        if not waiting:
            return
        current = waiting.pop(0)
        texts = _texts_in(prompt[current])
        if texts:
            yield from ((current, name) for name in texts)
            continue
        for name, (source, _) in parsing.links_of(prompt, current):
            if source in prompt and source not in seen and name not in ("positive", "negative"):
                seen.add(source)
                waiting.append(source)


def _texts_in(node: Mapping[str, Any]) -> list[str]:
    return [name for name in PROMPT_INPUTS if isinstance(node["inputs"].get(name), str)]


def _loaded(prompt: Prompt) -> Iterator[Place]:
    for node_id, node in prompt.items():
        for name, value in node["inputs"].items():
            if isinstance(value, str) and (kind := type_of(node, name, _definition(node, name))) in FILES:
                yield node_id, name, _own_title(prompt, node_id) or kind


def _usual(prompt: Prompt) -> Iterator[Place]:
    for wanted in EXPECTED:
        for node_id, node in prompt.items():
            value = node["inputs"].get(wanted)
            if isinstance(value, int) and not isinstance(value, bool) and not _is_fixed(node, wanted):
                yield node_id, wanted, EXPECTED[wanted]


def _is_fixed(node: Mapping[str, Any], name: str) -> bool:
    """A size is an input where an empty latent is created from it; not where an image is scaled or
    cropped.
    """
    return name in ("width", "height") and not str(node["class_type"]).startswith(("Empty", "Latent"))


def _titled(prompt: Prompt) -> Iterator[Place]:
    """The only value of a node that the author gave a title is meant to be set."""
    for node_id, node in prompt.items():
        title = _title_of_value(prompt, node_id)
        if title:
            yield from ((node_id, name, title) for name in _values_in(node))


def _title_of_value(prompt: Prompt, node_id: str) -> str:
    """The node's own title, if it has a single value to which the title can apply."""
    return _own_title(prompt, node_id) if len(_values_in(prompt[node_id])) == 1 else ""


def _values_in(node: Mapping[str, Any]) -> list[str]:
    return [name for name, value in node["inputs"].items() if not parsing.link(value)]


def _own_title(prompt: Prompt, node_id: str) -> str:
    """The title the author gave the node; "" if it is ComfyUI's default."""
    node = prompt[node_id]
    title = str((node.get("_meta") or {}).get("title") or "")
    definition = definitions.node(str(node["class_type"]))
    usual = {node["class_type"], definition.title if definition else None}
    return "" if title in usual or DEFAULT_TITLE.fullmatch(title) else title


# -- outputs ------------------------------------------------------------------------------------------------
def outputs(prompt: Prompt) -> list[NamedOutput]:
    return _named(prompt, [id_ for id_, node in prompt.items() if _is_output(node)], names=_Names())


def _is_output(node: Mapping[str, Any]) -> bool:
    definition = definitions.node(str(node["class_type"]))
    return definition.is_output if definition else node["class_type"] in SAVING


def _named(prompt: Prompt, ids: list[str], *, names: _Names) -> list[NamedOutput]:
    found = []
    for node_id in ids:
        title = _own_title(prompt, node_id) or _kind_of(str(prompt[node_id]["class_type"]))
        found.append(NamedOutput(name=names.take(title), node=node_id, title=title[:200]))
    return found


def _kind_of(class_type: str) -> str:
    lowered = class_type.lower()
    for sign, kind in (("audio", "audio"), ("video", "video"), ("webm", "video"), ("any", "text")):
        if sign in lowered:
            return kind
    return "image" if "image" in lowered or "webp" in lowered or "png" in lowered else "output"
