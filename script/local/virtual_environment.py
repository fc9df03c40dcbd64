"""A virtual environment with pip: complete, or created again."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from script.local.console import UserError, run


def complete(folder: Path) -> bool:
    """Whether it exists and was completely created."""
    parts = (folder / "pyvenv.cfg", folder / "bin" / "python")
    return all(part.exists() for part in parts) and not _unfinished(folder).exists()


def make(folder: Path, *, log: Path) -> None:
    """Create it for the running Python, replacing an existing one. UserError if that fails."""
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        raise UserError(_lacking()) from None
    _unfinished(folder).touch()
    shutil.rmtree(folder, ignore_errors=True)
    run([sys.executable, "-m", "venv", folder], log=log)
    _unfinished(folder).unlink()


def _unfinished(folder: Path) -> Path:
    """A marker beside it while it is being created: an interrupted one is unusable."""
    return folder.with_name(f"{folder.name}.unfinished")


def _lacking() -> str:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return (
        f"{sys.executable} has no venv module.\n"
        f"Debian and Ubuntu have it in python{version}-venv; or name another Python with PYTHON=…"
    )
