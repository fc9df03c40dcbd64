"""The metrics in Prometheus format."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder

import comfyserve
from workflows.metrics import store
from workflows.models import Priority, Worker

from .figures import Figures, Waiting

PREFIX = "comfyserve_"


def text(figures: Figures, *, accept: str) -> tuple[bytes, str]:
    """(the text, its content type): OpenMetrics for clients that accept it, else the older format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(figures))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Collector:
    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        yield from _counted(self._figures)
        yield from _gauges(self._figures)
        yield from _devices(self._figures)


def _counted(figures: Figures) -> Iterator[Metric]:
    series: dict[str, dict[tuple[str, ...], dict[int, tuple[int, float]]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for (counted, labels, bucket), entry in figures.counted.items():
        series[counted][labels][bucket] = entry
    for name, metric in store.METRICS.items():
        if metric.type == "counter":
            yield _counter(name, metric, series[name])
        else:
            yield _histogram(name, metric, series[name])


def _counter(
    name: str, metric: store.Metric, series: dict[tuple[str, ...], dict[int, tuple[int, float]]]
) -> Metric:
    family = CounterMetricFamily(PREFIX + name, metric.about, labels=metric.labels)
    if not metric.labels and not series:
        family.add_metric([], 0)
    for labels, buckets in series.items():
        family.add_metric(list(labels), sum(count for count, _ in buckets.values()))
    return family


def _histogram(
    name: str, metric: store.Metric, series: dict[tuple[str, ...], dict[int, tuple[int, float]]]
) -> Metric:
    family = HistogramMetricFamily(PREFIX + name, metric.about, labels=metric.labels)
    limits = [str(float(bound)) for bound in metric.bounds] + ["+Inf"]
    for labels, buckets in series.items():
        so_far, cumulated = 0, []
        for index, limit in enumerate(limits):
            so_far += buckets.get(index, (0, 0.0))[0]
            cumulated.append((limit, so_far))
        family.add_metric(list(labels), cumulated, sum(total for _, total in buckets.values()))
    return family


def _gauges(figures: Figures) -> Iterator[Metric]:
    yield _gauge("running_executions", "Running executions", figures.running)
    waiting = GaugeMetricFamily(PREFIX + "waiting_executions", "Waiting executions", labels=["priority"])
    oldest = GaugeMetricFamily(
        PREFIX + "oldest_waiting_seconds", "Age of the oldest waiting execution", labels=["priority"]
    )
    for priority in Priority.values:
        found = figures.waiting.get(priority, Waiting())
        waiting.add_metric([priority], found.number)
        oldest.add_metric([priority], found.oldest_seconds)
    yield waiting
    yield oldest
    workers = GaugeMetricFamily(PREFIX + "workers", "GPU workers by state", labels=["status"])
    for status in (*Worker.State.values, "unreachable", "silent"):
        workers.add_metric([status], figures.workers.get(status, 0))
    yield workers
    yield _gauge("cpu_usage_ratio", "CPU use of the responding host", figures.host["cpu_usage_percent"] / 100)
    yield _gauge(
        "memory_usage_ratio", "Memory use of the responding host", figures.host["memory_usage_percent"] / 100
    )
    yield _gauge(
        "disk_usage_ratio",
        "Use of the disk with DATA_DIR on the responding host",
        figures.host["disk_usage_percent"] / 100,
    )
    version = GaugeMetricFamily(
        PREFIX + "build_info", "Version of the responding process", labels=["version"]
    )
    version.add_metric([comfyserve.__version__], 1)
    yield version


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, about, value=value)


_OF_A_GPU = {  # key of gpus.figures -> (metric, help text, factor to our unit)
    "usage_percent": ("gpu_usage_ratio", "Use of the GPU", 0.01),
    "memory_used": ("gpu_memory_used_bytes", "Memory of the GPU in use", 1.0),
    "memory_total": ("gpu_memory_total_bytes", "Memory of the GPU", 1.0),
    "temperature_celsius": ("gpu_temperature_celsius", "Temperature of the GPU", 1.0),
}


def _devices(figures: Figures) -> Iterator[Metric]:
    for key, (name, about, unit) in _OF_A_GPU.items():
        family = GaugeMetricFamily(PREFIX + name, about, labels=["host", "device", "uuid", "name"])
        for gpu in figures.gpus:
            if gpu[key] is not None:
                labels = [gpu["host"], str(gpu["index"]), gpu["uuid"] or "", gpu["name"] or ""]
                family.add_metric(labels, gpu[key] * unit)
        yield family
