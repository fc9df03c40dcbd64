"""Metadata from the header of a safetensors file, and invalid files."""

from __future__ import annotations

import json

import pytest

from models_registry import headers


def write(path, header, *, data=b"", length=None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((length if length is not None else len(raw)).to_bytes(8, "little") + raw + data)
    return path


def tensor(dtype="F16", shape=(2,), end=4):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [0, end]}


def test_a_sound_file_is_read(tmp_path):
    header = {"__metadata__": {"a": "b"}, "x": tensor()}
    assert headers.read(write(tmp_path / "a.safetensors", header, data=b"1234")) == header


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"123", "cut short"), (b"12345", "too long")],
)
def test_a_file_of_another_length_than_its_header_says_is_malformed(tmp_path, data, said):
    with pytest.raises(headers.Malformed, match=said):
        headers.read(write(tmp_path / "a.safetensors", {"x": tensor()}, data=data))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!DOCTYPE html><html>Sign in</html>", "web page"),
        (b'{"error": "Unauthorized", "x": 1}', "JSON"),
        (b"PK\x03\x04" + b"\0" * 40, "pickle"),
        (b"", "not a safetensors"),
        (b"\xff" * 100, "not a safetensors"),
    ],
)
def test_other_file_types_are_named(tmp_path, content, said):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(headers.Malformed, match=said):
        headers.read(path)


@pytest.mark.parametrize("header", [b"[]", b'{"x": 1}', b'{"x": {"data_offsets": "no"}}', b"{" * 5000])
def test_an_invalid_header_is_malformed(tmp_path, header):
    with pytest.raises(headers.Malformed):
        headers.read(write(tmp_path / "a.safetensors", header))


@pytest.mark.parametrize(
    ("header", "architecture", "base", "resolution"),
    [
        ({"conditioner.embedders.1.x": tensor()}, "stable-diffusion-xl-v1", "sdxl-1.0", "1024x1024"),
        ({"cond_stage_model.transformer.x": tensor()}, "stable-diffusion-v1", "sd-1.5", "512x512"),
        ({"double_blocks.0.img_attn.x": tensor()}, "flux-1", "flux.1", "1024x1024"),
        (
            {"__metadata__": {"ss_base_model_version": "sdxl_base_v1-0", "ss_resolution": "(768, 768)"}},
            "stable-diffusion-xl-v1", "sdxl-1.0", "768x768",
        ),
        (
            {"__metadata__": {"modelspec.architecture": "stable-diffusion-v1/lora"}},
            "stable-diffusion-v1", "sd-1.5", "512x512",
        ),
    ],
)  # fmt: skip
def test_it_knows_what_the_model_is_for(header, architecture, base, resolution):
    told = headers.describe(header)
    assert (told["architecture"], told["base_model"], told["resolution"]) == (architecture, base, resolution)


def test_metadata_of_trainers_is_kept_unchanged():
    given = {"modelspec.title": "Clouds", "ss_steps": "100", "other": "x", "ss_tag_frequency": "x" * 100_000}
    told = headers.describe({"__metadata__": given})
    assert told == {"modelspec.title": "Clouds", "ss_steps": "100"}


def test_precision_is_what_most_numbers_are_kept_in():
    told = headers.describe({"a": tensor("F32", (3, 3)), "b": tensor("BF16", (100,))})
    assert told["precision"] == "bf16"
