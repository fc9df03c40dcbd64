"""Start Flower: the arguments are those of `celery flower`."""

from __future__ import annotations

import atexit
import signal
import sys

import django
from flower import command
from flower.options import options
from flower.urls import settings as tornado_settings

from comfyserve.celery import app


def main() -> None:
    command.apply_env_options()
    command.apply_options(sys.argv[0], sys.argv[1:])
    # Flower's own handlers are read-only, so that they cannot stop a worker; ours do their own checks.
    options.read_only = True
    command.extract_settings()
    command.setup_logging()
    django.setup()  # the imports below need it; the tasks, which the workers run, are not imported

    from workflows.flower.application import Application

    application = Application(capp=app, options=options, **tornado_settings)
    atexit.register(application.stop)
    signal.signal(signal.SIGTERM, command.sigterm_handler)
    application.start_http_server()
    try:
        application.start()
    except (KeyboardInterrupt, SystemExit):
        pass


main()
