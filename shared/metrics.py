"""Prometheus metrics: one registry per service, every name with the service's name in front."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from shared.errors import Unavailable

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series each for the moment when we began to count: nobody asks for it

READ_WITHIN_SECONDS: Final = 3.0
"""Prometheus gives a scrape ten seconds, and of a database that hangs nothing is known anyway."""
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
        self._readings: list[tuple[Callable[[], Awaitable[None]], tuple[Gauge, ...]]] = []
        self._scraping = asyncio.Lock()

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

    def at_scrape(self, read: Callable[[], Awaitable[None]], *gauges: Gauge) -> None:
        """Before each scrape `read` sets these gauges, all of which have labels: so they are right also when whoever
        does the work is idle, stuck or dead. What cannot be read now is left out, not shown as it was."""
        self._readings.append((read, gauges))

    async def scrape(self) -> bytes:
        """What `render` gives, with everything that is read at a scrape."""
        async with self._scraping:
            await asyncio.gather(*(_read(read, gauges) for read, gauges in self._readings))
            return self.render()

    def render(self) -> bytes:
        """The text exposition of everything in this registry, as it is known without asking anybody."""
        return generate_latest(self._registry)


async def _read(read: Callable[[], Awaitable[None]], gauges: Sequence[Gauge]) -> None:
    for gauge in gauges:
        gauge.clear()
    try:
        async with asyncio.timeout(READ_WITHIN_SECONDS):
            await read()
    except (Unavailable, TimeoutError):
        for gauge in gauges:
            gauge.clear()
