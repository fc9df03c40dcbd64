"""The Comfy API v2, as PyPI's `comfy-sdk` calls it, under /api/v2.

assets    our files, by id and by blake3
texts     texts without a file, as assets
jobs      our executions: submit, list, read, cancel
events    their live stream, as Comfy API events
errors    the Comfy API's error format
"""
