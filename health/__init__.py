"""Probes, system metrics, Prometheus, the console's dashboard, and the commands doctor and clean.

May import every app. Start with `views`, then `checks` (the dependency checks).
"""
