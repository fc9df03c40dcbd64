"""Parses the basic workflow formats into one ComfyUI prompt; structural errors are reported by field.

Accepted are the API reference's format (`nodes` by id, each with a list of named `inputs`) and ComfyUI's own
API format (nodes by id, each with a dict of `inputs`); `formats` handles the others. What only ComfyUI can
check (value out of range, missing model, no output node) is not checked here: it fails the execution when it
is run.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from comfyserve import near_names
from comfyserve.api.errors import Detail, ValidationFailed

from . import links
from .links import Graph as Graph
from .links import Link as Link
from .links import Prompt as Prompt
from .links import link as link
from .links import links_of as links_of

MARK_INPUT = "_comfyserve"  # an input that no node declares; see `mark_outputs`
DEFAULT_PREFIX = "ComfyUI"
NOT_VIEWABLE = re.compile(r"[\x00-\x1f\x7f]|\.(?=\.)")  # in a file name; as in comfyui_bridge

# Inputs that name a model file, with the model's type. The registry uses the same type names.
MODEL_INPUTS = {
    "ckpt_name": "checkpoint",
    "lora_name": "lora",
    "vae_name": "vae",
    "control_net_name": "controlnet",
    "unet_name": "diffusion_models",
    "clip_name": "text_encoders",
    "clip_name1": "text_encoders",
    "clip_name2": "text_encoders",
    "clip_name3": "text_encoders",
    "style_model_name": "style_models",
    "gligen_name": "gligen",
}
# Inputs that affect the run time; seeds and texts do not.
COSTLY = {
    "steps", "width", "height", "batch_size", "length", "frames", "video_frames", "amount", "scale_by",
    "megapixels", "seconds", "duration", "upscale_by", "sampler_name", "scheduler", "cfg",
}  # fmt: skip


@dataclass(frozen=True)
class ModelUse:
    name: str
    type: str


def parse(workflow: Any, *, max_nodes: int, path: str = "workflow") -> Graph:
    """Parse the workflow into one prompt.

    Raises ValidationFailed with all structural errors, each under the path of its element.
    """
    mistakes: list[Detail] = []
    graph = _read(workflow, path, max_nodes, mistakes)
    if mistakes:
        raise ValidationFailed(mistakes)
    return checked(graph, path=path, max_nodes=max_nodes)


def checked(graph: Graph, *, path: str, max_nodes: int) -> Graph:
    """Normalise and validate the graph's links. Raises ValidationFailed."""
    links.make_uniform(graph.prompt)
    mistakes = list(_too_many(graph.prompt, path, max_nodes)) or list(_wrong_links(graph))
    mistakes = mistakes or list(_cycle(graph)) or list(links.too_deep(graph))
    if mistakes:
        raise ValidationFailed(mistakes)
    return graph


def _too_many(nodes: Mapping[str, Any], path: str, max_nodes: int) -> Iterator[Detail]:
    if len(nodes) > max_nodes:
        message = f"The workflow has {len(nodes)} nodes; at most {max_nodes} are allowed"
        yield Detail("TOO_MANY_NODES", message, path)


# -- reading -----------------------------------------------------------------------------------------
def _read(workflow: Any, path: str, max_nodes: int, mistakes: list[Detail]) -> Graph:
    graph = Graph()
    nodes, path = _nodes_of(workflow, path, mistakes)
    if nodes is None:
        return graph
    mistakes += _too_many(nodes, path, max_nodes)
    if mistakes:
        return graph
    for node_id, node in nodes.items():
        _read_node(graph, str(node_id), node, f"{path}.{node_id}", mistakes)
    return graph


def _nodes_of(workflow: Any, path: str, mistakes: list[Detail]) -> tuple[Mapping[str, Any] | None, str]:
    if not isinstance(workflow, dict):
        mistakes.append(Detail("INVALID_TYPE", f"Field '{path}' must be an object", path))
        return None, path
    if "nodes" in workflow and not _looks_like_node(workflow["nodes"]):
        nodes, path = workflow["nodes"], f"{path}.nodes"
        if not isinstance(nodes, dict):
            mistakes.append(Detail("INVALID_TYPE", f"Field '{path}' must be an object of nodes by id", path))
            return None, path
    else:
        nodes = workflow
        if not nodes or not any(_looks_like_node(node) for node in nodes.values()):
            message = f"Field '{path}.nodes' is required{_seen_in(workflow)}"
            mistakes.append(Detail("REQUIRED_FIELD", message, f"{path}.nodes"))
            return None, path
    if not nodes:
        mistakes.append(Detail("REQUIRED_FIELD", f"Field '{path}' must have at least one node", path))
        return None, path
    return nodes, path


def _seen_in(workflow: Mapping[str, Any]) -> str:
    """A hint where the workflow seems to be if it is wrapped in another object; else empty."""
    key = next((str(key) for key, value in workflow.items() if looks_like_workflow(value)), None)
    return "" if key is None else f"; a workflow stands under '{key[:100]}': send that one as 'workflow'"


def looks_like_workflow(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    return isinstance(value.get("nodes"), dict | list) or any(map(_looks_like_node, value.values()))


def _looks_like_node(value: Any) -> bool:
    return isinstance(value, dict) and ("class_type" in value or "inputs" in value)


def _read_node(graph: Graph, node_id: str, node: Any, path: str, mistakes: list[Detail]) -> None:
    if not isinstance(node, dict):
        mistakes.append(Detail("INVALID_TYPE", f"Field '{path}' must be an object", path))
        return
    if len(node_id) > 200:
        mistakes.append(Detail("INVALID_VALUE", "A node's id has at most 200 characters", path))
    class_type = node.get("class_type")
    if class_type is None or class_type == "":
        mistakes.append(
            Detail("REQUIRED_FIELD", f"Field '{path}.class_type' is required", f"{path}.class_type")
        )
    elif not isinstance(class_type, str):
        mistakes.append(
            Detail("INVALID_TYPE", f"Field '{path}.class_type' must be a string", f"{path}.class_type")
        )
    named = node.get("id")
    if named is not None and str(named) != node_id:
        mistakes.append(
            Detail(
                "INVALID_VALUE",
                f"The node says its id is {named!r} but stands under '{node_id}'",
                f"{path}.id",
            )
        )
    if "inputs" not in node:
        mistakes += _misspelt(node, "inputs", path)
    inputs: dict[str, Any] = {}
    for name, value, where in _inputs_of(node.get("inputs", {}), f"{path}.inputs", mistakes):
        if name in inputs:
            mistakes.append(
                Detail("DUPLICATE_INPUT", f"The input '{name}' is given twice in node '{node_id}'", where)
            )
        if name != MARK_INPUT:  # left over in a prompt read from image metadata
            inputs[name] = _unwrapped(value)
            graph.paths[node_id, name] = where
    graph.node_paths[node_id] = path
    graph.prompt[node_id] = {"class_type": class_type, "inputs": inputs}
    title = _title_of(node)
    if title:
        graph.prompt[node_id]["_meta"] = {"title": title}


def _unwrapped(value: Any) -> Any:
    """Unwrap `{"__value__": x}` as ComfyUI does, except lists, which would become links."""
    if isinstance(value, dict) and "__value__" in value and not isinstance(value["__value__"], list):
        return value["__value__"]
    return value


def _title_of(node: Mapping[str, Any]) -> str:
    meta = node.get("_meta")
    title = meta.get("title") if isinstance(meta, dict) else node.get("title")
    return title[:200] if isinstance(title, str) else ""


def _inputs_of(inputs: Any, path: str, mistakes: list[Detail]) -> Iterator[tuple[str, Any, str]]:
    """Yield (name, value, path of the value) of each input, in either format."""
    if isinstance(inputs, dict):
        for name, value in inputs.items():
            yield name, value, f"{path}.{name}"
        return
    if not isinstance(inputs, list):
        mistakes.append(Detail("INVALID_TYPE", f"Field '{path}' must be a list or an object", path))
        return
    for i, entry in enumerate(inputs):
        where = f"{path}.{i}"
        if not isinstance(entry, dict):
            mistakes.append(Detail("INVALID_TYPE", f"Field '{where}' must be an object", where))
        elif not isinstance(entry.get("name"), str) or not entry["name"]:
            mistakes.append(Detail("REQUIRED_FIELD", f"Field '{where}.name' is required", f"{where}.name"))
        elif "value" in entry:
            yield entry["name"], entry["value"], f"{where}.value"
        elif entry.get("required"):
            mistakes.append(Detail("REQUIRED_FIELD", f"Field '{where}.value' is required", f"{where}.value"))
        else:
            mistakes += _misspelt(entry, "value", where)


def _misspelt(given: Mapping[str, Any], wanted: str, path: str) -> list[Detail]:
    """An error if a missing field seems to be present under a misspelt name."""
    found = near_names.near(wanted, given, cutoff=0.75)
    message = f"There is no field '{found[0][:100]}'; did you mean '{wanted}'?" if found else ""
    return [Detail("UNKNOWN_FIELD", message, f"{path}.{found[0][:100]}")] if found else []


# -- links -------------------------------------------------------------------------------------------
def _wrong_links(graph: Graph) -> Iterator[Detail]:
    for node_id in graph.prompt:
        for name, (source, slot) in links_of(graph.prompt, node_id):
            where = graph.paths[node_id, name]
            if source not in graph.prompt:
                yield Detail(
                    "INVALID_LINK",
                    f"The input '{name}' is linked to node '{source}', which does not exist",
                    where,
                )
            elif slot < 0:
                yield Detail(
                    "INVALID_LINK", f"The input '{name}' is linked to output {slot}; they count from 0", where
                )


def _cycle(graph: Graph) -> Iterator[Detail]:
    """At most one cycle, listed by its nodes. Iterative, since a graph may be thousands of nodes deep."""
    done: set[str] = set()
    for root in graph.prompt:
        trail: dict[str, str] = {}  # node -> the input it was left by, in order
        stack = [(root, links_of(graph.prompt, root))] if root not in done else []
        while stack:
            node_id, rest = stack[-1]
            step = next(rest, None)
            if step is None:
                done.add(node_id)
                trail.pop(node_id, None)
                stack.pop()
                continue
            name, (source, _) = step
            trail[node_id] = name
            if source in trail:
                members = list(trail)[list(trail).index(source) :]
                around = " -> ".join([*members, source])
                yield Detail(
                    "CYCLE", f"The nodes are linked in a circle: {around}", graph.paths[node_id, name]
                )
                return
            if source not in done:
                stack.append((source, links_of(graph.prompt, source)))


# -- graph properties --------------------------------------------------------------------------------
def title_of(prompt: Prompt, node_id: str) -> str:
    """The node's display name: its title, else its class."""
    node = prompt.get(node_id)
    if node is None:
        return f"node {node_id}"
    return str(node.get("_meta", {}).get("title") or node["class_type"])


def order_of(node_id: str) -> tuple[int | str, ...]:
    """Sort key for node ids: numbers by value ("9" before "10") and before names; the nodes that a node
    expands to ("4.0.0.1") and those of a subgraph ("4:1") follow it.
    """
    return tuple(int(part) if at % 2 else part for at, part in enumerate(re.split(r"(\d+)", node_id)))


def models_of(prompt: Prompt) -> list[ModelUse]:
    """The distinct model files in the graph, in graph order; checkpoints and diffusion models first."""
    found: dict[ModelUse, None] = {}
    for node in prompt.values():
        for name, value in node["inputs"].items():
            type_ = (
                "upscaler"
                if (node["class_type"], name) == ("UpscaleModelLoader", "model_name")
                else MODEL_INPUTS.get(name)
            )
            if type_ and isinstance(value, str):
                found[ModelUse(value, type_)] = None
    main = ("checkpoint", "diffusion_models")
    return sorted(found, key=lambda use: use.type not in main)


def kind_of(prompt: Prompt) -> str:
    """A hash of what determines the run time: seeds, texts and names of input files are ignored."""
    shape = [
        (
            node_id,
            node["class_type"],
            sorted(
                (name, value)
                for name, value in node["inputs"].items()
                if name in COSTLY or name in MODEL_INPUTS or link(value)
            ),
        )
        for node_id, node in sorted(prompt.items())
    ]
    return hashlib.sha256(json.dumps(shape, sort_keys=True, default=str).encode()).hexdigest()[:32]


def ancestors(prompt: Prompt, targets: list[str]) -> set[str]:
    """`targets` and all nodes they depend on: what ComfyUI runs for them."""
    seen: set[str] = set()
    stack = [target for target in targets if target in prompt]
    while stack:
        node_id = stack.pop()
        if node_id not in seen:
            seen.add(node_id)
            stack.extend(source for _, (source, _) in links_of(prompt, node_id) if source in prompt)
    return seen


def mark_outputs(prompt: Prompt, *, outputs: set[str], mark: str) -> Prompt:
    """Return the prompt to post, in which each output node differs from every earlier run.

    ComfyUI would serve a repeated workflow from its cache: it would report the old file and write none. An
    undeclared input is part of the cache key and otherwise ignored. Files are saved to the attempt's own
    folder. `outputs` are the ids of output nodes, `mark` is `<execution id>.<attempt>`.
    """
    marked: Prompt = {}
    for node_id, node in prompt.items():
        inputs = node["inputs"]
        if node_id in outputs:
            inputs = {**inputs, MARK_INPUT: mark}
            prefix = inputs.get("filename_prefix")
            if prefix is not None and not link(prefix):
                inputs["filename_prefix"] = f"{mark}/{literal_prefix(prefix)}"
        marked[node_id] = {**node, "inputs": inputs}
    return marked


def literal_prefix(prefix: Any) -> str:
    """A file name prefix as a path below the attempt's folder: no "..", not absolute, not empty.

    Characters that ComfyUI's `/view` rejects, as in "v1..final" or a newline, are replaced by `_`.
    """
    parts = [part for part in str(prefix).replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return "/".join(NOT_VIEWABLE.sub("_", part) for part in parts) or DEFAULT_PREFIX
