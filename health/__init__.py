"""Probes, system metrics, Prometheus."""
