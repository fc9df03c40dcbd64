"""Implementation of the commands in `script/`: setup, real services from PyPI, processes.

Modules up to `setup` need the standard library only, since they run before the virtual environment exists.
"""

from __future__ import annotations
