from __future__ import annotations

from typing import Any

import pytest

from apps_catalog import definitions
from tests.factories import Api, make_user
from workflows.fleet import registry
from workflows.graph import node_info
from workflows.models import ObjectInfo, Worker
from workflows.presentation import selectors

LOADERS = {
    "CheckpointLoaderSimple": {
        "display_name": "Load Checkpoint",
        "output": ["MODEL", "CLIP", "VAE"],
        "input": {"required": {"ckpt_name": [["dream.safetensors", "real.safetensors"]]}},
    },
    "CLIPTextEncode": {
        "display_name": "CLIP Text Encode (Prompt)",
        "output": ["CONDITIONING"],
        "input": {"required": {"text": ["STRING", {"multiline": True}], "clip": ["CLIP"]}},
    },
    "KSampler": {
        "display_name": "KSampler",
        "output": ["LATENT"],
        "input": {
            "required": {
                "model": ["MODEL"],
                "seed": ["INT", {"default": 0, "min": 0, "max": 2**64 - 1}],
                "steps": ["INT", {"default": 20, "min": 1, "max": 10000}],
                "cfg": ["FLOAT", {"default": 8.0, "min": 0.0, "max": 100.0, "step": 0.1}],
                "sampler_name": ["COMBO", {"options": ["euler", "dpmpp_2m"]}],
            }
        },
    },
    "LoadImage": {
        "display_name": "Load Image",
        "output": ["IMAGE", "MASK"],
        "input": {"required": {"image": [["example.png"], {"image_upload": True}]}},
    },
    "SaveImage": {
        "display_name": "Save Image",
        "output": [],
        "output_node": True,
        "input": {"required": {"images": ["IMAGE"], "filename_prefix": ["STRING", {}]}},
    },
}


@pytest.fixture(autouse=True)
def clear_caches():
    """Caches hold what other tests stored."""
    for moment in ("before", "after"):
        selectors.cached_pending_count.forget()
        registry.cached_any_alive.forget()
        for module in (definitions, node_info):
            module.cached_digests.forget()
            module._table.cache_clear()
        if moment == "before":
            yield


@pytest.fixture
def alice(db: Any) -> Api:
    return Api.of(make_user("alice"))


@pytest.fixture
def bob(db: Any) -> Api:
    return Api.of(make_user("bob"))


@pytest.fixture
def worker(db: Any) -> Worker:
    """One that told of its nodes."""
    info = ObjectInfo.objects.create(digest="told", body=LOADERS)
    return Worker.objects.create(name="gpu", host="here", pid=1, url="http://127.0.0.1:1", object_info=info)
