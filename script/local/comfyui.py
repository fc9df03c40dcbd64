"""A ComfyUI process: several can share one installation, each with its own folders."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from script.local import comfyui_install
from script.local.console import UserError, step
from script.local.paths import ROOT, cache_dir
from script.local.processes import Process

BRIDGE = ROOT / "comfyui_bridge"
_LAUNCH = Path(__file__).with_name("comfyui_launch.py")
_TINY_MODELS = Path(__file__).with_name("tiny_models.py")
_FOLDERS = (
    "checkpoints", "clip", "clip_vision", "controlnet", "diffusion_models", "embeddings", "loras",
    "style_models", "text_encoders", "unet", "upscale_models", "vae", "vae_approx",
)  # fmt: skip


class ComfyUI:
    """One ComfyUI on a loopback port, with its models, inputs, outputs and custom nodes in `folder`.

    `models` are more folders laid out like ComfyUI's `models`, which several may share. `nodes` are custom
    nodes (folders or files) to load beside our bridge; no others are loaded, unless `only_our_nodes` is
    False. `bridge` False omits ours.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int,
        log: Path,
        install: Path | None = None,
        models: Sequence[Path] = (),
        nodes: Sequence[Path] = (),
        options: Sequence[str] = (),
        bridge: bool = True,
        only_our_nodes: bool = True,
    ) -> None:
        self.folder = folder
        self.port = port
        self.install = install or comfyui_install.default_folder()
        self._models = list(models)
        self._nodes = [*([BRIDGE] if bridge else []), *nodes]
        self._options = list(options)
        self._only_our_nodes = only_our_nodes
        self.process = Process("ComfyUI", self.command, log=log, env=environment(), cwd=Path("/"))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def command(self) -> list[str]:
        command = [
            str(self.install / "venv" / "bin" / "python"), str(_LAUNCH),
            str(self.install / "ComfyUI" / "main.py"),
            "--port", str(self.port), "--base-directory", str(self.folder),
            "--database-url", f"sqlite:///{self.folder / 'user' / 'comfyui.db'}",
            "--extra-model-paths-config", str(self.folder / "more_models.yaml"),
            # Keeps a model in memory when other workflows run in between; 100 counts node results.
            "--cache-lru", "100",
            "--preview-method", "latent2rgb",
            "--max-upload-size", "2049",  # MiB: MAX_UPLOAD_BYTES, plus the form around it
            "--disable-api-nodes",
        ]  # fmt: skip
        if self._only_our_nodes:
            command.append("--disable-all-custom-nodes")
            if self._nodes:
                command += ["--whitelist-custom-nodes", *(node.name for node in self._nodes)]
        if not comfyui_install.has_gpu():
            command.append("--cpu")
        return [*command, *self._options]

    def prepare(self) -> None:
        """Create its folders and link models and custom nodes."""
        for name in (
            "input",
            "output",
            "temp",
            "user",
            "custom_nodes",
            *(f"models/{kind}" for kind in _FOLDERS),
        ):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        places = [*self._models, self.install / "ComfyUI" / "models"]
        # JSON is YAML.
        more = {
            f"more{n}": {"base_path": str(place)} | {kind: kind for kind in _FOLDERS}
            for n, place in enumerate(places)
        }
        (self.folder / "more_models.yaml").write_text(json.dumps(more, indent=1))
        for node in self._nodes:
            link = self.folder / "custom_nodes" / node.name
            if link.is_symlink():
                link.unlink()
            link.symlink_to(node.resolve(), target_is_directory=node.is_dir())

    def start(self) -> None:
        """Start it without waiting. Call `prepare` once before."""
        self.process.start()

    def wait(self, *, seconds: float = 180) -> None:
        self.process.wait_until(self.ready, seconds=seconds)

    def ready(self) -> bool:
        return answers(self.url)

    def stop(self) -> None:
        self.process.stop(seconds=10)


# Like our ComfyUI client: bypass proxies from the environment, especially for this machine.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def answers(url: str, *, headers: dict[str, str] | None = None, seconds: float = 2) -> bool:
    """Whether a ComfyUI responds at `url`."""
    try:
        request = urllib.request.Request(f"{url.rstrip('/')}/system_stats", headers=headers or {})
        with _direct.open(request, timeout=seconds) as answer:
            return "comfyui_version" in json.load(answer)["system"]
    except (OSError, ValueError, KeyError):
        return False


def environment() -> dict[str, str]:
    """The environment of ComfyUI and its nodes: without our secrets and Python settings."""
    kept = (
        "PATH",
        "HOME",
        "LANG",
        "LD_LIBRARY_PATH",
        "TMPDIR",
        "XDG_CACHE_HOME",
        "http_proxy",
        "https_proxy",
        "no_proxy",
    )
    prefixes = ("CUDA_", "NVIDIA_", "OPENBLAS_", "OMP_", "MKL_", "PYTORCH_", "HF_", "LC_")
    env = {key: value for key, value in os.environ.items() if key in kept or key.startswith(prefixes)}
    # On the CPU, torch's threads spin while they wait for each other. If anything else runs too, they take
    # cores from the threads they wait for: ten times slower, measured on two busy cores.
    env.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return env


def tiny_models(install: Path) -> Path:
    """The folder of small models with made-up weights, for demo and tests; created on first use (2 s).

    It is in the cache, named by the code that made it, and shared by all users of it.
    """
    version = hashlib.sha256(_TINY_MODELS.read_bytes()).hexdigest()[:12]
    folder = cache_dir() / f"tiny-models-{version}"
    if (folder / ".complete").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with comfyui_install.lock(folder), step("Make small models for demo and tests (130 MB)"):
        if (folder / ".complete").exists():  # created by a concurrent process
            return folder
        python = install / "venv" / "bin" / "python"  # it has numpy
        done = subprocess.run([python, _TINY_MODELS, folder], capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"The small models could not be made in {folder}:\n{done.stderr[-2000:]}")
        (folder / ".complete").touch()
    return folder
