"""Figures of what happened, for `/metrics/` and the console; `health` reads and explains them.

May import: models. Begin with `store`: `METRICS` lists every figure with its labels.
"""
