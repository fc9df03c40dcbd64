"""Counters and histograms for `/metrics/` and the console; `health` reads and explains them.

May import: models. Start with `store`: `METRICS` lists every metric with its labels.
"""
