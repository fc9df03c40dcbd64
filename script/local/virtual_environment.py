"""A virtual environment with pip in it: whole, or made anew."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from script.local.console import UserError, run


def complete(folder: Path) -> bool:
    """Is there one, and was the making of it not interrupted?"""
    parts = (folder / "pyvenv.cfg", folder / "bin" / "python")
    return all(part.exists() for part in parts) and not _unfinished(folder).exists()


def make(folder: Path, *, log: Path) -> None:
    """Make it for the Python that we run under, in place of what is there. UserError if that one can not."""
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
    """Lies beside it while it is being made: what an interrupted start has left can not be used."""
    return folder.with_name(f"{folder.name}.unfinished")


def _lacking() -> str:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return (
        f"{sys.executable} has no venv module.\n"
        f"Debian and Ubuntu have it in python{version}-venv; or name another Python with PYTHON=…"
    )
