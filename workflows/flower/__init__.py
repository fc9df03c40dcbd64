"""Flower as ComfyServe runs it: Celery's dashboard with the lengths and the cancelling of our queue.

May import: models, presentation, queue. Begin with `application`; `python -m workflows.flower` starts it.
"""
