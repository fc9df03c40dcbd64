"""The workflows that the demo submits, in ComfyUI's API format.

The small models generate clouds of colour. Stock nodes alone turn the samples into a landscape: as clouds in
the sky, and as the relief of the hills, which are cut where relief and slope exceed a height.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

TINY_CHECKPOINT = "tiny-sd15.safetensors"
PROMPT = "a quiet valley at sunset, layered hills"

Graph = dict[str, dict[str, Any]]

_SKY = (0x16224F, 0x35408A, 0x8A5A9C, 0xE58A86, 0xFFC48A)  # from the top
# From the back: where its slope begins (part of the height), colour, which relief, and which channel of it.
_HILLS = (
    (0.10, 0xC27D8F, "far", "red"),
    (0.18, 0x94597F, "fine flipped", "green"),
    (0.28, 0x63406F, "coarse flipped", "blue"),
    (0.39, 0x3B2856, "wide", "green"),
    (0.49, 0x1E1636, "wide flipped", "red"),
)
_RELIEF = 0.45  # its share in a height; the rest is the slope's
_EDGE = 0.52  # more than relief alone can reach, less than slope alone can: neither islands nor holes


def landscape(*, seed: int, width: int = 768, height: int = 512) -> Graph:
    """A sunset over hills, different for each seed; some two seconds on two cores."""
    picture = _Landscape(seed=seed, width=width * 3 // 2, height=height * 3 // 2)
    picture.sample()
    picture.paint_sky()
    picture.paint_sun()
    picture.paint_hills()
    # Rendered larger than needed, for smooth edges.
    picture.scale("picture", picture.painted, width, height, "area")
    picture.add("save", "SaveImage", images=["picture", 0], filename_prefix="comfyserve-demo")
    return picture.graph


def plain(*, checkpoint: str, seed: int) -> Graph:
    """Text to image with the user's own checkpoint."""
    graph = _Graph()
    graph.add_text(checkpoint)
    graph.add_sampler("0", seed=seed, steps=20, width=512, height=512)
    graph.add("save", "SaveImage", images=["decoded 0", 0], filename_prefix="comfyserve-demo")
    return graph.graph


class _Graph:
    def __init__(self) -> None:
        self.graph: Graph = {}

    def add(self, key: str, class_type: str, **inputs: Any) -> None:
        self.graph[key] = {"class_type": class_type, "inputs": inputs}

    def add_text(self, checkpoint: str) -> None:
        self.add("model", "CheckpointLoaderSimple", ckpt_name=checkpoint)
        self.add("prompt", "CLIPTextEncode", text=PROMPT, clip=["model", 1])
        self.add("avoid", "CLIPTextEncode", text="blurry, dull", clip=["model", 1])

    def add_sampler(self, name: str, *, seed: int, steps: int, width: int, height: int) -> None:
        self.add(f"latent {name}", "EmptyLatentImage", width=width, height=height, batch_size=1)
        self.add(
            f"sampled {name}", "KSampler", seed=seed, steps=steps, cfg=5.0, sampler_name="euler",
            scheduler="normal", denoise=1.0, model=["model", 0], positive=["prompt", 0],
            negative=["avoid", 0], latent_image=[f"latent {name}", 0],
        )  # fmt: skip
        self.add(f"decoded {name}", "VAEDecode", samples=[f"sampled {name}", 0], vae=["model", 2])

    def scale(self, key: str, image: str, width: int, height: int, method: str = "bicubic") -> None:
        self.add(
            key,
            "ImageScale",
            image=[image, 0],
            upscale_method=method,
            width=width,
            height=height,
            crop="disabled",
        )

    def flip(self, key: str, image: str) -> None:
        self.add(key, "ImageFlip", image=[image, 0], flip_method="y-axis: horizontally")

    def crop(self, key: str, image: str, *, width: int, height: int, x: int = 0) -> None:
        self.add(key, "ImageCrop", image=[image, 0], width=width, height=height, x=x, y=0)

    def flat(self, key: str, colour: int, width: int, height: int) -> None:
        self.add(key, "EmptyImage", width=width, height=height, batch_size=1, color=colour)

    def blend(self, key: str, one: str, two: str, share: float, mode: str = "normal") -> None:
        self.add(key, "ImageBlend", image1=[one, 0], image2=[two, 0], blend_factor=share, blend_mode=mode)

    def put(self, key: str, onto: str, what: str, *, x: int = 0, y: int = 0, mask: str | None = None) -> None:
        more = {"mask": [mask, 0]} if mask else {}
        self.add(
            key, "ImageCompositeMasked", destination=[onto, 0], source=[what, 0], x=x, y=y,
            resize_source=False, **more,
        )  # fmt: skip

    def gradient(self, key: str, colours: Sequence[int], width: int, height: int, method: str) -> None:
        """A vertical gradient through `colours`."""
        stacked = ""
        for number, colour in enumerate(colours):
            self.flat(f"{key} {number}", colour, 4, 2)
            if number == 0:
                stacked = f"{key} 0"
                continue
            self.add(
                f"{key} to {number}", "ImageStitch", image1=[stacked, 0], image2=[f"{key} {number}", 0],
                direction="down", match_image_size=True, spacing_width=0, spacing_color="white",
            )  # fmt: skip
            stacked = f"{key} to {number}"
        self.scale(key, stacked, width, height, method)


class _Landscape(_Graph):
    """Composed layer by layer; `painted` names the node with all layers so far."""

    def __init__(self, *, seed: int, width: int, height: int) -> None:
        super().__init__()
        self.seed = seed
        self.width = width
        self.height = height
        self.painted = ""

    def sample(self) -> None:
        """Two clouds of colour, coarse and fine, stretched and mirrored into the reliefs of the hills."""
        width, height = self.width, self.height
        self.add_text(TINY_CHECKPOINT)
        self.add_sampler("coarse", seed=self.seed, steps=12, width=96, height=64)
        self.add_sampler("fine", seed=self.seed + 1, steps=8, width=160, height=96)
        self.scale("coarse", "decoded coarse", width, height)
        self.scale("fine", "decoded fine", width, height)
        self.scale("far", "decoded coarse", width, height * 7 // 5)
        self.scale("wide", "decoded coarse", width * 17 // 10, height)
        for name in ("coarse", "fine", "wide"):
            self.flip(f"{name} flipped", name)

    def paint_sky(self) -> None:
        width, height = self.width, self.height
        self.gradient("sky", _SKY, width, height * 18 // 25, "bicubic")
        self.flat("haze", _SKY[-1], width, height)
        self.put("air", "haze", "sky")
        self.blend("cloud", "coarse", "fine", 0.4)
        self.scale("long clouds", "cloud", width * 3, height)
        self.crop("clouds", "long clouds", width=width, height=height, x=width // 2)
        self.blend("cloudy sky", "air", "clouds", 0.5, "soft_light")
        self.painted = "cloudy sky"

    def paint_sun(self) -> None:
        """A white point scaled up is a round spot that fades out: the glow. Thresholded at half, it is the
        disc.
        """
        self.flat("dark", 0, 3, 3)
        self.flat("dot", 0xFFFFFF, 1, 1)
        self.put("point", "dark", "dot", x=1, y=1)
        self._paint_spot("glow", 0xFFD9A0, self.height * 4 // 5, cut=False)
        self._paint_spot("sun", 0xFFF1C9, self.height * 3 // 10, cut=True)

    def _paint_spot(self, name: str, colour: int, size: int, *, cut: bool) -> None:
        self.scale(f"{name} spot", "point", size, size)
        self.blend(f"{name} light", f"{name} spot", f"{name} spot", 1.0)  # which clips negative values
        self.add(f"{name} mask", "ImageToMask", image=[f"{name} light", 0], channel="red")
        if cut:
            self.add(f"{name} disc", "ThresholdMask", mask=[f"{name} mask", 0], value=0.5)
        self.flat(f"{name} colour", colour, size, size)
        x, y = self.width * 16 // 25 - size // 2, self.height * 42 // 100 - size // 2
        self.put(
            name, self.painted, f"{name} colour", x=x, y=y, mask=f"{name} disc" if cut else f"{name} mask"
        )
        self.painted = name

    def paint_hills(self) -> None:
        width, height = self.width, self.height
        self.gradient("slope", (0x000000, 0xFFFFFF), width, height * 4 // 5, "bilinear")
        self.flat("level", 0x000000, width, height)
        for number, (begin, colour, relief, channel) in enumerate(_HILLS, 1):
            name = f"hill {number}"
            self.put(f"{name} slope", "level", "slope", y=int(height * begin))
            self.crop(f"{name} relief", relief, width=width, height=height)
            self.blend(f"{name} height", f"{name} slope", f"{name} relief", _RELIEF)
            self.add(f"{name} grey", "ImageToMask", image=[f"{name} height", 0], channel=channel)
            self.add(f"{name} shape", "ThresholdMask", mask=[f"{name} grey", 0], value=_EDGE)
            self.flat(f"{name} colour", colour, width, height)
            self.put(name, self.painted, f"{name} colour", mask=f"{name} shape")
            self.painted = name
