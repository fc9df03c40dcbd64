"""Turns ComfyUI's validation errors into sentences: the node, the input, its value and what is allowed.

ComfyUI's own texts are kept beside them; an error of an unknown type is passed on in full.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from comfyserve.near_names import did_you_mean, near
from comfyui.types import InputError, NodeErrors

from . import links, parsing
from .node_info import Classes, Input

SHOWN = 80  # characters shown of a value
SHOWN_OPTIONS = 20
WHOLE = 32_000  # characters of an error of unknown type
PATHS = re.compile(r"(?<![\w.])(?:/[\w.@+-]+){2,}/?|[A-Za-z]:\\[^\s'\"]+")
EDITOR_ONLY = {"Note", "MarkdownNote", "PrimitiveNode", "Reroute", "GroupNode"}
NO_FILE = re.compile(r"Invalid \w+ file:")  # ComfyUI's message for a missing file
MODEL_FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".gguf", ".bin", ".sft")


@dataclass(frozen=True)
class Explanation:
    """One error with its readable sentence. `lacks` is the missing model, if that is the cause."""

    sentence: str
    value: Any = None
    allowed: Sequence[Any] | None = None
    near: Sequence[str] = ()
    lacks: str | None = None


@dataclass(frozen=True)
class Found:
    """One error of one node, with the input's value and its declaration in the class."""

    node_id: str
    class_type: str
    error: InputError
    prompt: parsing.Prompt
    classes: Classes

    @property
    def name(self) -> str:
        return self.error.input_name or self.error.details.partition(",")[0].partition(":")[0].strip()

    @property
    def value(self) -> Any:
        return self.inputs.get(self.name)

    @property
    def inputs(self) -> Mapping[str, Any]:
        inputs: Mapping[str, Any] = self.prompt.get(self.node_id, {"inputs": {}})["inputs"]
        return inputs

    @property
    def shown(self) -> str:
        return links.written(self.value, SHOWN)

    @property
    def declared(self) -> Mapping[str, Input]:
        return self.classes[self.class_type].inputs if self.class_type in self.classes else {}

    @property
    def about(self) -> Input:
        """The input's declaration: from the error itself, else from the class."""
        known = (
            self.classes[self.class_type].inputs.get(self.name) if self.class_type in self.classes else None
        )
        declared = self.error.extra_info.get("input_config")
        if isinstance(declared, list) and declared:
            limits = declared[1] if len(declared) > 1 and isinstance(declared[1], dict) else {}
            options = declared[0] if isinstance(declared[0], list) else limits.get("options")
            kind = "COMBO" if isinstance(declared[0], list) else str(declared[0])
            return Input(kind, required=False, options=tuple(options) if options else None, limits=limits)
        return known or Input("", required=False)


def explain(errors: NodeErrors, error: InputError, prompt: parsing.Prompt, classes: Classes) -> Explanation:
    """Describe the error in a sentence that names its node."""
    found = Found(errors.node_id, errors.class_type, error, prompt, classes)
    made = SENTENCES.get(error.type, _passed_on)(found)
    return Explanation(
        f"{named(prompt, errors.node_id)}: {made.sentence}", made.value, made.allowed, made.near, made.lacks
    )


def named(prompt: parsing.Prompt, node_id: str) -> str:
    """A node by id, title and class, such as "Node 5 (Sampler, KSampler)"."""
    title = parsing.title_of(prompt, node_id)
    class_type = prompt[node_id]["class_type"] if node_id in prompt else title
    return f"Node {node_id} ({title})" if title == class_type else f"Node {node_id} ({title}, {class_type})"


# -- one sentence per error type -----------------------------------------------------------------------
def _missing(found: Found) -> Explanation:
    given = [name for name in found.inputs if name not in found.declared]
    alike = near(found.name, given)
    sentence = f"input '{found.name}' is missing"
    if found.declared and alike:
        return Explanation(
            f"{sentence}; it has no input '{alike[0]}', did you mean '{found.name}'?", near=alike
        )
    return Explanation(sentence)


def _bad_link(found: Found) -> Explanation:
    sentence = links.explain(found.prompt, found.node_id, found.name, found.classes)
    return Explanation(sentence or f"input '{found.name}' is no link [node id, output]", value=found.value)


def _other_type(found: Found) -> Explanation:
    wanted, got = found.about.kind, found.error.extra_info.get("received_type")
    link = parsing.link(found.value)
    if not (wanted and got and link):
        return Explanation(
            f"input '{found.name}' is linked to an output of another type ({clean(found.error.details)})"
        )
    source = f"output {link[1]} of {named(found.prompt, link[0])[:200]}"
    offered = found.classes.get(found.prompt.get(link[0], {}).get("class_type", ""))
    fitting = [i for i, kind in enumerate(offered.outputs) if kind == wanted] if offered else []
    hint = f"; output {fitting[0]} gives {wanted}" if fitting else ""
    return Explanation(
        f"input '{found.name}' takes {wanted}, but {source} gives {got}{hint}", value=found.value
    )


def _broke(found: Found) -> Explanation:
    """ComfyUI raised on the node without saying why: check its links here."""
    wrong = [links.explain(found.prompt, found.node_id, name, found.classes) for name in found.inputs]
    sentences = [sentence for sentence in wrong if sentence]
    if sentences:
        return Explanation("; ".join(sentences))
    exception = str(found.error.extra_info.get("exception_type") or "")
    if exception == "RecursionError":
        return Explanation("the chain of nodes before it is longer than ComfyUI can follow")
    return Explanation(
        f"ComfyUI could not check it ({exception or 'an exception'}: {clean(found.error.details, WHOLE)})"
    )


def _wrong_type(found: Found) -> Explanation:
    kind = found.about.kind or "its type"
    return Explanation(
        f"input '{found.name}' is {found.shown}, which cannot be read as {kind}", value=found.value
    )


def _out_of_range(found: Found) -> Explanation:
    least, most = found.about.limits.get("min"), found.about.limits.get("max")
    if least is not None and most is not None:
        allowed = f"{least} to {most} is allowed"
    elif found.error.type == "value_bigger_than_max":
        allowed = f"at most {most} is allowed"
    else:
        allowed = f"at least {least} is needed"
    if "seed" in found.name and isinstance(found.value, int) and found.value < 0:
        allowed += "; no seed is drawn here, so send a number of your own"
    return Explanation(f"input '{found.name}' is {found.shown}; {allowed}", found.value, [least, most])


def _not_in_list(found: Found) -> Explanation:
    options = [str(each) for each in found.about.options or ()]
    alike = near(_as_here(str(found.value)), options)
    if names_model(found.name, found.value):
        return Explanation(
            f"the model {found.shown} is not installed", found.value, near=alike, lacks=str(found.value)
        )
    sentence = f"input '{found.name}' cannot be {found.shown}{did_you_mean(alike)}"
    if 0 < len(options) <= SHOWN_OPTIONS:
        sentence += f"{'' if alike else ';'} allowed: {', '.join(options)}"
    elif options and not alike:
        sentence += f"; it is one of {len(options)} names, such as {', '.join(options[:5])}"
    return Explanation(sentence, found.value, options[:SHOWN_OPTIONS], alike)


# Other programs name the scheduler together with the sampler: "DPM++ 2M Karras", "Euler a".
SCHEDULER = re.compile(r"[\s_]+(karras|exponential|sgm[\s_]uniform|simple|normal|beta)$", re.IGNORECASE)


def _as_here(name: str) -> str:
    """The name of a sampler as ComfyUI would write it; other names are hardly changed by it."""
    alone = SCHEDULER.sub("", name.strip())
    return re.sub(r"(?i)(?<=[\s_])a$", "ancestral", alone.replace("++", "pp"))


def _custom(found: Found) -> Explanation:
    _, dash, why = found.error.details.partition(" - ")
    reason = clean(why, WHOLE) if dash else "the node does not accept it"
    if NO_FILE.match(reason):
        reason += "; upload it to /files/upload and send its file_id"
    return Explanation(f"input '{found.name}' is {found.shown}: {reason}", value=found.value)


def _cycle(found: Found) -> Explanation:
    around = found.error.extra_info.get("cycle_nodes")
    named_ = f": {' -> '.join(str(each) for each in around)}" if isinstance(around, list) else ""
    return Explanation(f"the nodes are linked in a circle{named_}")


def _passed_on(found: Found) -> Explanation:
    """ComfyUI's own text."""
    error = found.error
    details = f" ({clean(error.details, WHOLE)})" if error.details else ""
    return Explanation(f"{clean(error.message, WHOLE)}{details} [{error.type}]", value=found.value)


# ComfyUI's node error types: those of 0.3.75 and of later versions.
SENTENCES: Mapping[str, Callable[[Found], Explanation]] = {
    "required_input_missing": _missing,
    "bad_linked_input": _bad_link,
    "return_type_mismatch": _other_type,
    "exception_during_inner_validation": _broke,
    "exception_during_validation": _broke,
    "invalid_input_type": _wrong_type,
    "value_smaller_than_min": _out_of_range,
    "value_bigger_than_max": _out_of_range,
    "value_not_in_list": _not_in_list,
    "custom_validation_failed": _custom,
    "dependency_cycle": _cycle,
}


# -- missing node classes ------------------------------------------------------------------------------
def unknown_classes(
    prompt: parsing.Prompt, classes: Classes, blamed: str | None
) -> Iterator[tuple[str, str]]:
    """Yield (sentence, class) for each node whose class is not installed; ComfyUI itself reports only one."""
    for node_id, node in prompt.items():
        class_type = str(node["class_type"])
        if node_id == blamed or (classes and class_type not in classes):
            which = (
                named(prompt, node_id)
                if parsing.title_of(prompt, node_id) != class_type
                else f"Node {node_id}"
            )
            alike = did_you_mean(near(class_type, classes, cutoff=0.7))
            if class_type in EDITOR_ONLY:
                alike = "; it exists in ComfyUI's editor only: send what 'Export (API)' saves"
            yield f"{which}: no node of the class '{class_type}' is installed{alike}", class_type


def names_model(name: str, value: Any) -> bool:
    return name in parsing.MODEL_INPUTS or (isinstance(value, str) and value.endswith(MODEL_FILES))


def clean(text: str, longest: int = 500) -> str:
    """The text on one line, without server paths, truncated to `longest` characters with a note."""
    cleaned = PATHS.sub("…", " ".join(text.split()))
    return (
        cleaned if len(cleaned) <= longest else f"{cleaned[:longest]}… (cut off; {len(cleaned):,} characters)"
    )
