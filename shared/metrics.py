"""Prometheus metrics: one registry per service, every name with the service's name in front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

LATENCY_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Asking twice for the same name gives the same metric, so two parts of a service may share one."""

    content_type: Final = CONTENT_TYPE_LATEST

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix.replace("-", "_")
        self._registry = CollectorRegistry()
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}

    def counter(self, name: str, help_text: str, labels: Sequence[str] = ()) -> Counter:
        if name not in self._counters:
            self._counters[name] = Counter(f"{self._prefix}_{name}", help_text, labels, registry=self._registry)
        return self._counters[name]

    def gauge(self, name: str, help_text: str, labels: Sequence[str] = ()) -> Gauge:
        if name not in self._gauges:
            self._gauges[name] = Gauge(f"{self._prefix}_{name}", help_text, labels, registry=self._registry)
        return self._gauges[name]

    def histogram(
        self, name: str, help_text: str, labels: Sequence[str] = (), buckets: Sequence[float] = LATENCY_SECONDS
    ) -> Histogram:
        if name not in self._histograms:
            self._histograms[name] = Histogram(
                f"{self._prefix}_{name}", help_text, labels, buckets=buckets, registry=self._registry
            )
        return self._histograms[name]

    def render(self) -> bytes:
        """The text exposition of everything in this registry."""
        return generate_latest(self._registry)
