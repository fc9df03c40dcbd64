"""Parses ComfyUI's JSON into our types.

The functions raise KeyError, TypeError, ValueError, AttributeError or IndexError (`MALFORMED`) on unexpected
input; callers translate that. They are strict about what we rely on and lenient about the rest, since
versions differ there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from comfyui.types import (
    Device,
    ExecutionError,
    History,
    InputError,
    NodeErrors,
    Outcome,
    OutputFile,
    QueueItem,
    QueueState,
    Submitted,
    SystemStats,
)

MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError)
TEXT_KEYS = ("text", "string")  # of the stock PreviewAny and of widely used custom nodes


def mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"an object was expected, not {type(value).__name__}")
    return value


def optional_mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def strings(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list | tuple) else []


def submitted(raw: Any) -> Submitted:
    raw = mapping(raw)
    return Submitted(
        prompt_id=str(raw["prompt_id"]),
        number=float(raw["number"]),
        node_errors=node_errors(raw.get("node_errors")),
    )


def node_errors(raw: Any) -> dict[str, NodeErrors]:
    """By node id. `[]` and null, which some versions send for "none", are empty."""
    return {
        str(node_id): _errors_of_node(str(node_id), each) for node_id, each in optional_mapping(raw).items()
    }


def _errors_of_node(node_id: str, raw: Any) -> NodeErrors:
    raw = mapping(raw)
    return NodeErrors(
        node_id=node_id,
        class_type=str(raw.get("class_type", "")),
        errors=[_input_error(each) for each in raw.get("errors", [])],
        dependent_outputs=strings(raw.get("dependent_outputs")),
    )


def _input_error(raw: Any) -> InputError:
    raw = mapping(raw)
    extra = optional_mapping(raw.get("extra_info"))
    name = extra.get("input_name")
    return InputError(
        type=str(raw.get("type", "")),
        message=str(raw.get("message", "")),
        details=str(raw.get("details") or ""),
        input_name=None if name is None else str(name),
        extra_info=extra,
    )


def queue(raw: Any) -> QueueState:
    raw = mapping(raw)
    # ComfyUI sends its heap in memory order: only the number says which comes first.
    pending = sorted((_queue_item(each) for each in raw["queue_pending"]), key=lambda item: item.number)
    return QueueState(running=[_queue_item(each) for each in raw["queue_running"]], pending=pending)


def _queue_item(raw: Any) -> QueueItem:
    number, prompt_id, prompt, *rest = raw
    extra = optional_mapping(rest[0]) if rest else {}
    client_id, created = extra.get("client_id"), extra.get("create_time")
    return QueueItem(
        number=float(number),
        prompt_id=str(prompt_id),
        client_id=None if client_id is None else str(client_id),
        prompt=optional_mapping(prompt),
        output_nodes=strings(rest[1]) if len(rest) > 1 else [],
        created_ms=created if isinstance(created, int) else None,
    )


def history(prompt_id: str, raw: Any) -> History | None:
    """The entry of one prompt in the response to `/history/ID`; None if it has none."""
    entry = mapping(raw).get(prompt_id)
    if entry is None:
        return None
    outputs = {
        str(node_id): mapping(each) for node_id, each in mapping(entry.get("outputs") or {}).items() if each
    }
    status = optional_mapping(entry.get("status"))
    messages = [(str(name), mapping(data)) for name, data in status.get("messages") or []]
    outcome = _outcome(status, messages)
    prompt = entry.get("prompt")
    return History(
        prompt_id=prompt_id,
        outcome=outcome,
        completed=bool(status.get("completed", outcome == "success")),
        outputs=outputs,
        files=list(files(outputs)),
        texts=list(texts(outputs)),
        error=_error_among(messages) if outcome == "error" else None,
        output_nodes=strings(prompt[4]) if isinstance(prompt, list) and len(prompt) > 4 else [],
        started_ms=milliseconds(messages[0][1]) if messages else None,
        ended_ms=milliseconds(messages[-1][1]) if messages else None,
        messages=messages,
    )


def _outcome(status: Mapping[str, Any], messages: list[tuple[str, dict[str, Any]]]) -> Outcome:
    """ComfyUI reports an interrupted prompt as an error too: only its last message tells them apart."""
    if status.get("status_str", "success") == "success":
        return "success"
    names = [name for name, _ in messages]
    if "execution_interrupted" in names and "execution_error" not in names:
        return "interrupted"
    return "error"


def _error_among(messages: list[tuple[str, dict[str, Any]]]) -> ExecutionError:
    data = next((data for name, data in reversed(messages) if name == "execution_error"), {})
    return execution_error(data)


def execution_error(data: Mapping[str, Any]) -> ExecutionError:
    return ExecutionError(
        node_id=str(data.get("node_id") or ""),
        node_type=str(data.get("node_type") or ""),
        exception_type=str(data.get("exception_type") or ""),
        message=str(data.get("exception_message") or "").strip(),
        traceback=strings(data.get("traceback")),
        executed=strings(data.get("executed")),
    )


def milliseconds(message: Mapping[str, Any]) -> int | None:
    """When ComfyUI sent this message (since 1970); None if unknown."""
    stamp = message.get("timestamp")
    return int(stamp) if isinstance(stamp, int | float) else None


def files(outputs: Mapping[str, Mapping[str, Any]]) -> Iterator[OutputFile]:
    """Everything in the outputs that references a file, under whichever key a node puts it."""
    for node_id, output in outputs.items():
        animated = output.get("animated")
        is_animated = any(animated) if isinstance(animated, list) else bool(animated)
        for key, items in output.items():
            for item in items if isinstance(items, list) else []:
                if isinstance(item, dict) and isinstance(item.get("filename"), str) and item["filename"]:
                    yield OutputFile(
                        filename=item["filename"],
                        subfolder=str(item.get("subfolder") or ""),
                        type=str(item.get("type") or "output"),
                        node_id=node_id,
                        key=key,
                        animated=is_animated,
                    )


def texts(outputs: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for node_id, output in outputs.items():
        for key in TEXT_KEYS:
            for text in _flat(output.get(key)):
                yield node_id, text


def _flat(value: Any) -> Iterator[str]:
    """Some nodes return one text, some a list, some a list of lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _flat(each)


def system_stats(raw: Any) -> SystemStats:
    raw = mapping(raw)
    system = mapping(raw["system"])
    return SystemStats(
        version=str(system.get("comfyui_version") or ""),
        python=str(system.get("python_version") or ""),
        devices=[_device(each) for each in raw["devices"]],
        ram_total=int(system.get("ram_total") or 0),
        ram_free=int(system.get("ram_free") or 0),
        argv=strings(system.get("argv")),
        pytorch=str(system.get("pytorch_version") or ""),
    )


def _device(raw: Any) -> Device:
    raw = mapping(raw)
    index = raw.get("index")
    return Device(
        name=str(raw["name"]),
        type=str(raw["type"]),
        index=None if index is None else int(index),
        vram_total=int(raw["vram_total"]),
        vram_free=int(raw["vram_free"]),
        torch_vram_total=int(raw["torch_vram_total"]),
        torch_vram_free=int(raw["torch_vram_free"]),
    )
