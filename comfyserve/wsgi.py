from __future__ import annotations

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "comfyserve.settings")
django.setup(set_prefix=False)

from comfyserve.api.gate.threads import ThreadHandler  # noqa: E402  (after Django's set-up)

application = ThreadHandler()
