"""Write tiny models with random weights, in the formats that ComfyUI loads, for tests and the demo.

    make_models.py MODELS_DIR [--seed N]

They are real files: ComfyUI detects them as it does published ones (SD1.5 checkpoint with
text encoder and tiny autoencoder, Kohya LoRA, Compact x2 upscaler, TAESD). The pictures are
coloured noise, but depend on prompt, seed and steps as real ones do. Needs numpy only.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

Shape = tuple[int, ...]
WIDTH, CONTEXT, TIME = 320, 768, 1280  # what makes ComfyUI detect SD1.5; all else is read from the weights


# -- layers: each returns {key: shape} --------------------------------------------------------
def linear(key: str, n_in: int, n_out: int, bias: bool = True) -> dict[str, Shape]:
    return {f"{key}.weight": (n_out, n_in)} | ({f"{key}.bias": (n_out,)} if bias else {})


def conv(key: str, n_in: int, n_out: int, size: int = 3, bias: bool = True) -> dict[str, Shape]:
    return {f"{key}.weight": (n_out, n_in, size, size)} | ({f"{key}.bias": (n_out,)} if bias else {})


def norm(key: str, n: int) -> dict[str, Shape]:
    return {f"{key}.weight": (n,), f"{key}.bias": (n,)}


def res_block(key: str, n_in: int, n_out: int) -> dict[str, Shape]:
    shapes = norm(f"{key}.in_layers.0", n_in) | conv(f"{key}.in_layers.2", n_in, n_out)
    shapes |= linear(f"{key}.emb_layers.1", TIME, n_out)
    shapes |= norm(f"{key}.out_layers.0", n_out) | conv(f"{key}.out_layers.3", n_out, n_out)
    return shapes | (conv(f"{key}.skip_connection", n_in, n_out, 1) if n_in != n_out else {})


def transformer(key: str, n: int) -> dict[str, Shape]:
    block = f"{key}.transformer_blocks.0"
    shapes = norm(f"{key}.norm", n) | conv(f"{key}.proj_in", n, n, 1) | conv(f"{key}.proj_out", n, n, 1)
    for attn, context in (("attn1", n), ("attn2", CONTEXT)):
        shapes |= linear(f"{block}.{attn}.to_q", n, n, False)
        shapes |= linear(f"{block}.{attn}.to_k", context, n, False)
        shapes |= linear(f"{block}.{attn}.to_v", context, n, False)
        shapes |= linear(f"{block}.{attn}.to_out.0", n, n)
    shapes |= linear(f"{block}.ff.net.0.proj", n, n * 8) | linear(f"{block}.ff.net.2", n * 4, n)
    for i in (1, 2, 3):
        shapes |= norm(f"{block}.norm{i}", n)
    return shapes


def unet() -> dict[str, Shape]:
    """One level, one residual block, one transformer, nothing in the middle."""
    shapes = linear("time_embed.0", WIDTH, TIME) | linear("time_embed.2", TIME, TIME)
    shapes |= conv("input_blocks.0.0", 4, WIDTH)
    shapes |= res_block("input_blocks.1.0", WIDTH, WIDTH) | transformer("input_blocks.1.1", WIDTH)
    for i in (0, 1):
        shapes |= res_block(f"output_blocks.{i}.0", WIDTH * 2, WIDTH)
    return shapes | norm("out.0", WIDTH) | conv("out.2", WIDTH, 4)


def clip_l(layers: int = 12) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {
        "embeddings.token_embedding.weight": (49408, CONTEXT),
        "embeddings.position_embedding.weight": (77, CONTEXT),
    }
    for i in range(layers):
        key = f"encoder.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= linear(f"{key}.self_attn.{name}", CONTEXT, CONTEXT)
        shapes |= linear(f"{key}.mlp.fc1", CONTEXT, CONTEXT * 4) | linear(
            f"{key}.mlp.fc2", CONTEXT * 4, CONTEXT
        )
        shapes |= norm(f"{key}.layer_norm1", CONTEXT) | norm(f"{key}.layer_norm2", CONTEXT)
    return shapes | norm("final_layer_norm", CONTEXT)


def taesd() -> dict[str, Shape]:
    def block(key: str) -> dict[str, Shape]:
        return conv(f"{key}.conv.0", 64, 64) | conv(f"{key}.conv.2", 64, 64) | conv(f"{key}.conv.4", 64, 64)

    encoder = conv("0", 3, 64) | conv("14", 64, 4)
    for i in (2, 6, 10):
        encoder |= conv(str(i), 64, 64, bias=False)
    for i in (1, 3, 4, 5, 7, 8, 9, 11, 12, 13):
        encoder |= block(str(i))
    decoder = conv("1", 4, 64) | conv("19", 64, 3)
    for i in (7, 12, 17):
        decoder |= conv(str(i), 64, 64, bias=False)
    for i in (3, 4, 5, 8, 9, 10, 13, 14, 15, 18):
        decoder |= block(str(i))
    return (
        under("taesd_encoder.", encoder)
        | under("taesd_decoder.", decoder)
        | {"vae_scale": (), "vae_shift": ()}
    )


def compact_upscaler(features: int = 8, scale: int = 2) -> dict[str, Shape]:
    shapes = conv("body.0", 3, features) | {"body.1.weight": (features,)}
    shapes |= conv("body.2", features, features) | {"body.3.weight": (features,)}
    return shapes | conv("body.4", features, 3 * scale * scale)


def lora(rank: int = 4) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    attn = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_"
    targets = {
        f"{attn}to_q": (WIDTH, WIDTH),
        f"{attn}to_k": (CONTEXT, WIDTH),
        f"{attn}to_v": (CONTEXT, WIDTH),
    }
    targets |= {
        f"lora_te_text_model_encoder_layers_{i}_self_attn_q_proj": (CONTEXT, CONTEXT) for i in (0, 11)
    }
    for key, (n_in, n_out) in targets.items():
        shapes |= {
            f"{key}.lora_down.weight": (rank, n_in),
            f"{key}.lora_up.weight": (n_out, rank),
            f"{key}.alpha": (),
        }
    return shapes


def under(prefix: str, shapes: dict[str, Shape]) -> dict[str, Shape]:
    return {prefix + key: shape for key, shape in shapes.items()}


# -- weights ----------------------------------------------------------------------------------
# Random weights alone give flat, saturated pictures. So the networks are built around the simplest
# thing that works, and random weights disturb it: the UNet predicts that all it is given is noise, the
# autoencoder turns latents into colours (as ComfyUI's own previews do) and back.
COLOURS = np.array(
    [
        [0.3512, 0.2297, 0.3227],
        [0.3250, 0.4974, 0.2350],
        [-0.2829, 0.1762, 0.2721],
        [-0.2120, -0.2616, -0.7177],
    ],
    np.float32,
)  # latent -> RGB
BLUR = np.outer([1, 2, 1], [1, 2, 1]).astype(np.float32) / 16
DISTURB = 0.3


def is_hole(key: str) -> bool:
    """Zeros, so that a residual block passes its input through; sparse holes in the file.

    True of the middle ten layers of the text encoder (ComfyUI builds all twelve, whatever the file holds) and
    of the blocks of the autoencoder.
    """
    _, found, layer = key.partition("text_model.encoder.layers.")
    return layer.split(".")[0] not in ("0", "11") if found else "taesd_" in key and ".conv." in key


def middle(matrix: np.ndarray) -> np.ndarray:
    """A 3x3 convolution that uses the middle pixel only."""
    kernel = np.zeros((*matrix.shape, 3, 3), np.float32)
    kernel[:, :, 1, 1] = matrix
    return kernel


def plus_minus(n: int) -> np.ndarray:
    """(n, 4): +a, -a, +b, -b, … of the four latent channels, repeated: survives ReLU and SiLU."""
    rows = np.arange(n)
    return np.eye(4, dtype=np.float32)[rows // 2 % 4] * np.where(rows % 2, -1, 1)[:, None]


def blurring() -> np.ndarray:
    """A convolution of 64 channels that blurs each separately."""
    return np.eye(64, dtype=np.float32)[:, :, None, None] * BLUR


def built(key: str, shape: Shape) -> np.ndarray | None:
    """The weights that matter; None for those that are random."""
    _, found, rest = key.rpartition("taesd_")
    if found:
        few = np.zeros((64, 4), np.float32)
        few[:8] = plus_minus(8)
        rgb = np.zeros((64, 3), np.float32)
        rgb[:3] = np.eye(3)
        back = np.linalg.pinv(COLOURS).T.astype(np.float32)  # (4, 3), RGB -> latent
        made: dict[str, Callable[[], np.ndarray]] = {
            "decoder.1.weight": lambda: middle(few),
            "decoder.19.weight": lambda: middle((few @ COLOURS).T / 2),
            "decoder.19.bias": lambda: np.full(3, 0.5, np.float32),
            "encoder.0.weight": lambda: middle(rgb),
            "encoder.14.weight": lambda: middle(back @ rgb.T * 2),
            "encoder.14.bias": lambda: -back.sum(axis=1),
        }
        if rest in made:
            return made[rest]()
        return blurring() if len(shape) == 4 else None
    if key.endswith("vae_scale"):
        return np.array(0.18215, np.float32)
    if key.endswith("diffusion_model.input_blocks.0.0.weight"):
        return middle(plus_minus(WIDTH))
    if key.endswith("diffusion_model.out.2.weight"):
        return middle(
            plus_minus(WIDTH).T * 8 / WIDTH * 0.93
        )  # leaves 7 % of the noise, which forms the picture
    if key.endswith("skip_connection.weight"):
        return np.hstack([np.eye(WIDTH), np.eye(WIDTH)]).astype(np.float32)[:, :, None, None] / 2
    return None


def weight(key: str, shape: Shape, seed: int, gain: float) -> np.ndarray:
    """The same key, shape and seed always give the same numbers, whatever else is in the file."""
    values = built(key, shape)
    if values is not None:
        return values.astype(np.float16)
    if key.endswith("alpha"):
        return np.full(shape, 4.0, np.float16)
    if key.endswith((".bias", "vae_shift")):
        return np.zeros(shape, np.float16)
    if len(shape) < 2:  # norms and PReLU slopes
        return np.ones(shape, np.float16)
    random = np.random.default_rng([seed, zlib.crc32(key.encode())])
    if "embedding" in key:
        gain = 0.02 * math.sqrt(math.prod(shape[1:]))
    elif "diffusion_model" in key and ("out_layers.3" in key or "proj_out" in key):
        gain = DISTURB
    values = random.standard_normal(shape, dtype=np.float32)
    values *= gain / math.sqrt(math.prod(shape[1:]))
    return values.astype(np.float16)


# -- files ------------------------------------------------------------------------------------
def write(
    path: Path, shapes: dict[str, Shape], metadata: dict[str, str], seed: int, gain: float = 1.0
) -> None:
    """A safetensors file, written tensor by tensor and moved into place when complete."""
    header: dict[str, object] = {"__metadata__": metadata}
    offset = 0
    for key, shape in shapes.items():
        size = 2 * math.prod(shape)
        header[key] = {"dtype": "F16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for key, shape in shapes.items():
            if is_hole(key):
                file.seek(2 * math.prod(shape), os.SEEK_CUR)
            else:
                file.write(weight(key, shape, seed, gain).tobytes())
        file.truncate(8 + len(text) + offset)
    part.replace(path)


def make(models: Path, seed: int = 0) -> list[Path]:
    checkpoint = under("model.diffusion_model.", unet())
    checkpoint |= under("cond_stage_model.transformer.text_model.", clip_l())
    checkpoint |= under("first_stage_model.", taesd())
    spec = {"modelspec.sai_model_spec": "1.0.0", "modelspec.architecture": "stable-diffusion-v1"}
    files = {
        "checkpoints/tiny-sd15.safetensors": (
            checkpoint,
            spec | {"modelspec.title": "Tiny SD1.5", "modelspec.resolution": "128x128", "format": "pt"},
            1.0,
        ),
        "loras/tiny-lora.safetensors": (
            lora(),
            spec
            | {
                "modelspec.title": "Tiny LoRA",
                "ss_base_model_version": "sd_v1",
                "ss_network_module": "networks.lora",
                "ss_network_dim": "4",
                "ss_network_alpha": "4.0",
                "format": "pt",
            },
            1.0,
        ),
        "upscale_models/tiny-compact-x2.safetensors": (
            compact_upscaler(),
            {"modelspec.title": "Tiny Compact x2", "format": "pt"},
            0.1,
        ),
        "vae/tiny-taesd.safetensors": (taesd(), {"modelspec.title": "Tiny TAESD", "format": "pt"}, 1.0),
    }
    for name, (shapes, metadata, gain) in files.items():
        write(models / name, shapes, metadata, seed, gain)
    return [models / name for name in files]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for made in make(options.models, options.seed):
        print(f"{made.stat().st_size / 1e6:9.3f} MB  {made}")
