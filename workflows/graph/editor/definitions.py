"""How ComfyUI's editor presents a node class: its sockets, its widgets, and what each widget sends.

ComfyUI's `object_info` lists the inputs of a class. The editor turns some into widgets, adds widgets of its
own (the control next to a seed, upload buttons, previews), and saves all their values as one list. Reading
such a list requires both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

UNDEFINED: Final = object()  # JavaScript's undefined: such a value is omitted from the prompt

# Input types that the editor shows as widgets. `COMBO` also stands for a list of choices.
WIDGET_TYPES = frozenset(
    {
        "INT", "FLOAT", "BOOLEAN", "STRING", "MARKDOWN", "COMBO", "IMAGEUPLOAD", "COLOR", "IMAGECOMPARE",
        "CHART", "GALLERIA", "TEXTAREA", "LOAD_3D", "PREVIEW_3D", "AUDIO_UI", "AUDIOUPLOAD", "AUDIO_RECORD",
        "WEBCAM",
    }
)  # fmt: skip
SEEDS = ("seed", "noise_seed")  # get a control widget even if the node does not request it
PREVIEWS_3D = ("Preview3D", "SaveGLB")
PLAYS_AUDIO = ("LoadAudio", "SaveAudio", "PreviewAudio", "SaveAudioMP3", "SaveAudioOpus")
# Classes whose file names may contain placeholders such as %date:yyyy-MM-dd% and %KSampler.seed%.
SAVES_FILES = frozenset(
    {
        "SaveImage", "SaveVideo", "SaveAnimatedWEBP", "SaveWEBM", "SaveAudio", "SaveGLB", "SaveAnimatedPNG",
        "CLIPSave", "VAESave", "ModelSave", "LoraSave", "SaveLatent",
    }
)  # fmt: skip
DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"  # a choice that adds inputs depending on the selected option
MADE_IN_BROWSER = {"LOAD_3D": "a picture of the 3D scene", "WEBCAM": "a picture from the webcam"}


@dataclass(frozen=True)
class Widget:
    name: str
    default: Any = UNDEFINED
    kind: str = ""  # the input's type; "" for a widget added by the editor
    options: Mapping[str, Any] = field(default_factory=dict)
    sent: bool = True  # whether it is part of the prompt
    saved: bool = True  # has a place in `widgets_values`


@dataclass(frozen=True)
class Definition:
    class_type: str
    title: str
    inputs: Mapping[str, str]  # name -> type, in the editor's order: sockets first, then widget inputs
    widgets: tuple[Widget, ...]
    outputs: tuple[str, ...]  # types
    # For values saved by editors that gave inputs with `forceInput` a place in the list: (has `forceInput`,
    # number of places) of each input that is or was a widget
    places: tuple[tuple[bool, int], ...] = ()


@dataclass(frozen=True)
class _Input:
    name: str
    type: str
    options: Mapping[str, Any]
    choices: tuple[Any, ...] = ()
    optional: bool = False

    @property
    def widget_type(self) -> str:
        return str(self.options.get("widgetType") or self.type)

    @property
    def is_widget(self) -> bool:
        return self.widget_type in WIDGET_TYPES and not self.options.get("forceInput")

    @property
    def controlled(self) -> bool:
        asked = self.options.get("control_after_generate")
        return bool(self.name in SEEDS if asked is None else asked)


def of(
    class_type: str, object_info: Mapping[str, Any], values: Sequence[Any] | Mapping[str, Any] = ()
) -> Definition | None:
    """The class as the editor presents it; None if ComfyUI does not know it.

    `values` are the saved ones: the inputs of a class may depend on the option selected in one of them.
    """
    about = object_info.get(class_type)
    if not isinstance(about, dict):
        return None
    inputs = _chosen(list(_ordered(class_type, about)), values)
    widgets = [widget for each in inputs if each.is_widget for widget in _widgets(each)]
    if class_type == "PreviewAny":
        widgets.append(Widget("preview", "", "MARKDOWN", saved=False))
    names = {widget.name for widget in widgets}
    return Definition(
        class_type=class_type,
        title=str(about.get("display_name") or about.get("name") or class_type),
        inputs={each.name: each.type for each in inputs if not each.is_widget}
        | {each.name: each.type for each in inputs if each.is_widget},
        widgets=tuple(widgets),
        outputs=tuple(
            "COMBO" if isinstance(type_, list) else str(type_) for type_ in about.get("output") or ()
        ),
        places=tuple(
            (bool(each.options.get("forceInput")), 2 if each.controlled or each.name in SEEDS else 1)
            for each in inputs
            if each.name in names or each.options.get("forceInput")
        ),
    )


# -- inputs --------------------------------------------------------------------------------------------
def _ordered(class_type: str, about: Mapping[str, Any]) -> Iterator[_Input]:
    """Inputs in the order of `input_order`; those it does not list come last."""
    found = {each.name: each for each in _inputs(about)}
    found |= {each.name: each for each in _added(class_type, found)}
    order = about.get("input_order") or {}
    first = [
        found[name]
        for section in ("required", "optional")
        for name in order.get(section) or ()
        if name in found and found[name].optional == (section == "optional")
    ]
    yield from first
    named = {each.name for each in first}
    yield from (each for name, each in found.items() if name not in named)


def _chosen(inputs: list[_Input], values: Sequence[Any] | Mapping[str, Any]) -> list[_Input]:
    """Insert the inputs that the selected options add, each right after its choice."""
    found: list[_Input] = []
    rest, place = inputs[::-1], 0
    while rest:
        each = rest.pop()
        if each.type == DYNAMIC_COMBO:
            options = [option for option in each.choices if isinstance(option, dict)]
            keys = tuple(option.get("key") for option in options)
            each = dataclasses.replace(each, type="COMBO", options={}, choices=keys)
            value = _value_at(values, each.name, place, default=keys[0] if keys else None)
            brought = next((option.get("inputs") for option in options if option.get("key") == value), None)
            inner = list(_inputs({"input": brought or {}}, prefix=f"{each.name}."))
            rest += inner[::-1]
        found.append(each)
        if each.is_widget:
            place += sum(widget.saved for widget in _widgets(each))
    return found


def _value_at(values: Sequence[Any] | Mapping[str, Any], name: str, place: int, *, default: Any) -> Any:
    if isinstance(values, Mapping):
        return values.get(name, default)
    return values[place] if place < len(values) else default


def _inputs(about: Mapping[str, Any], prefix: str = "") -> Iterator[_Input]:
    sections = about.get("input") or {}
    for section in ("required", "optional"):
        for name, spec in (sections.get(section) or {}).items():
            if not isinstance(spec, list) or not spec:
                continue
            options = spec[1] if len(spec) > 1 and isinstance(spec[1], dict) else {}
            type_, choices = spec[0], options.get("options") or ()
            if isinstance(type_, list):
                type_, choices = "COMBO", type_
            yield _Input(f"{prefix}{name}", str(type_), options, tuple(choices), section == "optional")


def _added(class_type: str, found: Mapping[str, _Input]) -> Iterator[_Input]:
    """Inputs that the editor's own extensions add."""
    if class_type in PREVIEWS_3D:
        yield _Input("image", "PREVIEW_3D", {})
    if class_type in PLAYS_AUDIO:
        yield _Input("audioUI", "AUDIO_UI", {})
    required = [each for each in found.values() if not each.optional]
    if "audio" in found and found["audio"].options.get("audio_upload") is True:
        yield _Input("upload", "AUDIOUPLOAD", {})
    elif any(each.type == "COMBO" and _takes_upload(each.options) for each in required):
        yield _Input("upload", "IMAGEUPLOAD", {})


def _takes_upload(options: Mapping[str, Any]) -> bool:
    return any(
        options.get(name) is True for name in ("image_upload", "video_upload", "animated_image_upload")
    )


# -- widgets -------------------------------------------------------------------------------------------
def _widgets(given: _Input) -> Iterator[Widget]:
    """The input's widget and its companion widgets."""
    kind = given.widget_type
    match kind:
        case "IMAGEUPLOAD":
            yield Widget(given.name, "image", sent=False)
        case "AUDIOUPLOAD":
            yield Widget(given.name, "", sent=False)
        case "AUDIO_UI":
            yield Widget(given.name, "", saved=False)
        case "AUDIO_RECORD":
            yield Widget("audioUI", "")
            yield Widget(given.name, "", sent=False)
        case "LOAD_3D":
            yield Widget("upload 3d model", "upload3dmodel")
            yield Widget("upload extra resources", "uploadExtraResources")
            yield Widget("clear", "clear")
            yield Widget("image", "", kind)
        case _:
            options = _for_file(given.options) if kind == "COMBO" else given.options
            yield Widget(given.name, _default(given, kind), kind, options)
            yield from _companions(given, kind)


def _companions(given: _Input, kind: str) -> Iterator[Widget]:
    if kind == "COMBO" and given.options.get("remote"):
        yield Widget("Auto-refresh after generation", False, sent=False)
        remote = given.options["remote"]
        if isinstance(remote, dict) and remote.get("refresh_button"):
            yield Widget("refresh", "refresh")
    asked = given.options.get("control_after_generate")
    if kind == "COMBO" and asked:
        yield Widget("control_after_generate", "randomize", sent=False)
        yield Widget("control_filter_list", "", sent=False)
    elif kind == "INT" and given.controlled:
        yield Widget(asked if isinstance(asked, str) else "control_after_generate", "randomize", sent=False)


def _for_file(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The editor rewrites the value of a combo with an upload button."""
    return {**options, "rewritten": True} if _takes_upload(options) else options


def _default(given: _Input, kind: str) -> Any:
    default = given.options.get("default")
    nested = given.options.get("options")
    match kind:
        case "INT" | "FLOAT":
            return 0 if default is None else default
        case "BOOLEAN":
            return False if default is None else default
        case "STRING" | "MARKDOWN":
            return "" if default is None else default
        case "COMBO":
            if given.options.get("multi_select"):
                return []
            if default:
                return default
            if given.choices:
                return given.choices[0]
            return "Loading..." if given.options.get("remote") else UNDEFINED
        case "COLOR":
            return (nested.get("default") if isinstance(nested, dict) else None) or "#000000"
        case "TEXTAREA" | "WEBCAM" | "PREVIEW_3D":
            return (nested.get("default") if isinstance(nested, dict) else None) or ""
        case "IMAGECOMPARE":
            return ["", ""]
        case "CHART":
            return {}
        case "GALLERIA":
            return []
    return UNDEFINED
