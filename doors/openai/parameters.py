"""Image requests, and the app inputs that they become: matched by name and type.

Fields that every client sends (`size`, `quality`, `style`, `background`) are dropped if the app has no input
for them. Fields that OpenAI does not define are app inputs by their own names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from rest_framework import serializers

from apps_catalog.parameters import CHOICES, TEXTS, Parameter
from comfyserve.api.errors import ValidationFailed

MAX_IMAGES = 10  # per request
MAX_PARTIAL_IMAGES = 3  # per image, as in OpenAI's API
PROMPTS = ("prompt", "positive", "positive_prompt", "text")
COUNTS = ("n", "batch_size")
OPTIONAL = ("size", "quality", "style", "background")  # passed to app inputs of the same names
DURATIONS = ("seconds", "duration", "duration_seconds", "length_seconds")
SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")


class ImagesSerializer(serializers.Serializer[Any]):
    model = serializers.CharField(max_length=250)
    prompt = serializers.CharField(max_length=32_000, trim_whitespace=False)
    n = serializers.IntegerField(min_value=1, max_value=MAX_IMAGES, default=1, allow_null=True)
    size = serializers.RegexField(
        rf"^(auto|{SIZE.pattern})$", default="auto", allow_null=True,
        error_messages={"invalid": "must be 'auto' or WIDTHxHEIGHT, such as 1024x1024"},
    )  # fmt: skip
    quality = serializers.CharField(max_length=50, default="auto", allow_null=True)
    style = serializers.CharField(  # type: ignore[assignment]  # a field, not that attribute of a serializer
        max_length=50, default=None, allow_null=True
    )
    background = serializers.CharField(max_length=50, default="auto", allow_null=True)
    response_format = serializers.ChoiceField(["b64_json", "url"], default=None, allow_null=True)
    output_format = serializers.ChoiceField(["png", "jpeg", "webp"], default=None, allow_null=True)
    output_compression = serializers.IntegerField(min_value=0, max_value=100, default=100, allow_null=True)
    user = serializers.CharField(max_length=200, default="", allow_null=True, allow_blank=True)
    stream = serializers.BooleanField(default=False, allow_null=True)
    partial_images = serializers.IntegerField(
        min_value=0, max_value=MAX_PARTIAL_IMAGES, default=0, allow_null=True
    )
    # Accepted and ignored: they configure OpenAI's own services.
    moderation = serializers.CharField(default=None, allow_null=True)
    input_fidelity = serializers.CharField(default=None, allow_null=True)


class VideoSerializer(serializers.Serializer[Any]):
    model = serializers.CharField(max_length=250, default="sora-2")
    prompt = serializers.CharField(max_length=32_000, trim_whitespace=False)
    seconds = serializers.RegexField(r"^\d{1,4}(\.\d{1,3})?$", default=None, allow_null=True)
    size = serializers.RegexField(
        rf"^(auto|{SIZE.pattern})$", default="", allow_null=True, allow_blank=True,
        error_messages={"invalid": "must be WIDTHxHEIGHT, such as 1280x720"},
    )  # fmt: skip


def output_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The run's `output`; empty: as the app produces it. OpenAI's compression starts at 0, quality at 1."""
    wanted = given["output_format"]
    if wanted in (None, "png"):
        return {"format": wanted} if wanted else {}
    compression = given["output_compression"]
    return {"format": wanted, "quality": 100 if compression is None else max(compression, 1)}


def values_of(
    inputs: Sequence[Parameter],
    given: Mapping[str, Any],
    extra: Mapping[str, Any],
    *,
    images: Sequence[str] = (),
    mask: str | None = None,
) -> list[dict[str, Any]]:
    """The inputs of each run: one run if the app has an input for the number of images, else `n` runs.

    `images` and `mask` are file ids. Raises ValidationFailed if the app has no input for a required field.
    """
    known = {each.name: each for each in inputs}
    values = {name: _typed(known.get(name), value) for name, value in extra.items()}
    values[_prompt_input(inputs).name] = given["prompt"]
    values |= _size_values(inputs, given["size"] or "auto")
    for name in OPTIONAL:
        target = known.get(name)
        if target and target.type in (*TEXTS, *CHOICES) and given[name] not in (None, "auto"):
            values[name] = given[name]
    values |= _file_values(inputs, "image", images)
    values |= _file_values(inputs, "mask", [mask] if mask else [])
    return _runs(inputs, values, given["n"] or 1)


def video_values(
    inputs: Sequence[Parameter],
    given: Mapping[str, Any],
    extra: Mapping[str, Any],
    *,
    references: Mapping[str, str],
) -> dict[str, Any]:
    """The inputs of the run for a video. `references`: file ids or addresses by "image" and "video"."""
    known = {each.name: each for each in inputs}
    values = {name: _typed(known.get(name), value) for name, value in extra.items()}
    values[_prompt_input(inputs).name] = given["prompt"]
    values |= _size_values(inputs, given["size"] or "auto")
    duration = next((known[name] for name in DURATIONS if name in known), None)
    if duration is not None and given["seconds"]:
        values[duration.name] = _typed(duration, given["seconds"])
    for kind, file in references.items():
        values |= _file_values(inputs, kind, [file])
    return values


def _prompt_input(inputs: Sequence[Parameter]) -> Parameter:
    texts = [each for each in inputs if each.type in TEXTS and "negative" not in each.name]
    named = [each for name in PROMPTS for each in texts if each.name == name]
    found = next(iter(named or texts), None)
    if found is None:
        raise ValidationFailed.of("prompt", "The app has no text input for the prompt")
    return found


def _size_values(inputs: Sequence[Parameter], size: str) -> dict[str, int]:
    wanted = SIZE.fullmatch(size)
    if wanted is None:
        return {}
    sides = {"width": int(wanted[1]), "height": int(wanted[2])}
    return {target.name: value for side, value in sides.items() if (target := _whole_number(inputs, (side,)))}


def _whole_number(inputs: Sequence[Parameter], names: Sequence[str]) -> Parameter | None:
    """The input of one of these names, else the one that sets a node's input of that name."""
    whole = [each for each in inputs if each.type == "integer"]
    by_name = [each for each in whole if each.name in names]
    return next(iter(by_name or [each for each in whole if each.input in names]), None)


def _file_values(inputs: Sequence[Parameter], kind: str, files: Sequence[str]) -> dict[str, str]:
    targets = [each for each in inputs if each.type == kind]
    if len(files) > len(targets):
        accepted = f"The app takes {len(targets) or 'no'} {kind}{'s' if len(targets) > 1 else ''}"
        raise ValidationFailed.of(kind, f"{accepted}; the request has {len(files)}")
    return {target.name: file for target, file in zip(targets, files, strict=False)}


def _runs(inputs: Sequence[Parameter], values: dict[str, Any], n: int) -> list[dict[str, Any]]:
    count = _whole_number(inputs, COUNTS)
    if count and count.name not in values and (count.maximum is None or n <= count.maximum):
        return [{**values, count.name: n}]
    seed = next(
        (each.name for each in inputs if each.is_seed and isinstance(values.get(each.name), int)), None
    )
    return [{**values, **({seed: values[seed] + i} if seed else {})} for i in range(n)]


def _typed(target: Parameter | None, value: Any) -> Any:
    """Form values are strings; one that cannot be parsed as the input's type is rejected later, by name."""
    if target is not None and isinstance(value, str):
        with suppress(ValueError):
            if target.type in ("integer", "number"):
                return int(value) if target.type == "integer" else float(value)
            if target.type == "boolean" and value.lower() in ("true", "false"):
                return value.lower() == "true"
    return value
