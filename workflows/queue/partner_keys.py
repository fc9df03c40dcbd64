"""Users' keys for nodes of partner services, sent in `extra_data` for one execution.

They are kept encrypted among the extras of its graph until it ends, and erased in the transaction that ends
it. Only the worker that posts the prompt decrypts them. A retry does not inherit them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from comfyserve import secret_box
from comfyserve.api.errors import ValidationFailed
from comfyui.types import ExecutionError

NAMES = ("api_key_comfy_org", "auth_token_comfy_org")  # as ComfyUI's nodes ask for them
FIELD = "partner_keys"  # of Graph.extras
LONGEST = 8192  # characters; a token is a JWT
REDACTED = "[partner key]"


def split(extra_data: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """`extra_data` without the keys, and the keys encrypted: empty where there are none.

    Raises ValidationFailed for a key that is no string or too long.
    """
    keys = {}
    for name in NAMES:
        key = extra_data.get(name)
        if key is None or key == "":
            continue
        if not isinstance(key, str) or len(key) > LONGEST:
            message = f"It must be a string of at most {LONGEST} characters"
            raise ValidationFailed.of(f"extra_data.{name}", message)
        keys[name] = key
    plain = {name: value for name, value in extra_data.items() if name not in NAMES}
    return plain, secret_box.encrypt(json.dumps(keys)) if keys else ""


def decrypt(extras: Mapping[str, Any]) -> dict[str, str]:
    """The keys by name, in clear. Raises secret_box.Unreadable."""
    if not extras.get(FIELD):
        return {}
    found: dict[str, str] = json.loads(secret_box.decrypt(extras[FIELD]))
    return found


def without(extras: Mapping[str, Any]) -> dict[str, Any]:
    """The extras as a retry inherits them."""
    return {name: value for name, value in extras.items() if name != FIELD}


def redact(error: ExecutionError, extras: Mapping[str, Any]) -> ExecutionError:
    """The same error without the keys, which a node may have put into its message."""
    try:
        keys = list(decrypt(extras).values())
    except secret_box.Unreadable:
        return error  # they were not sent either

    def clean(text: str) -> str:
        for key in keys:
            text = text.replace(key, REDACTED)
        return text

    return replace(error, message=clean(error.message), traceback=[clean(line) for line in error.traceback])
