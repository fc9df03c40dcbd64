"""Flower as ComfyServe runs it: Celery's dashboard with the lengths of our queues and a cancel button.

May import: queue and everything below it. Begin with `application`; `python -m workflows.flower` starts it.
"""
