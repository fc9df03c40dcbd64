"""Probes, system metrics, Prometheus, the console's dashboard, and the commands doctor and clean.

May import every app. Begin with `views`, then `checks` (what readiness looks at).
"""
