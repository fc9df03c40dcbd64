"""The rows of GPU workers: heartbeats, who is alive, what operators asked of them.

May import: models. Begin with `registry` (what changes a worker's row); `overview` reads them for people.
"""
