"""Celery's beat: `python -m comfyserve.beat`, with the options of `celery beat`.

It sends the names of tasks by the clock and runs none, so it needs neither Django's apps nor the tasks
themselves: importing them would double its memory and take four times as long.
"""

from __future__ import annotations

import sys

from django.conf import settings
from django.utils.log import configure_logging

from comfyserve.celery import app

if __name__ == "__main__":
    configure_logging(settings.LOGGING_CONFIG, settings.LOGGING)
    app.loader.worker_initialized = True  # else beat would import all of them
    app.start(["-q", "beat", *sys.argv[1:]])
