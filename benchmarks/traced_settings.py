"""The service's settings, with the recorder of `benchmarks.tracing`."""

from __future__ import annotations

from comfyserve.settings import *  # noqa: F403
from comfyserve.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "benchmarks.tracing.Tracing"]
