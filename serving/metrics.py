"""The service's own Prometheus metrics; one registry per service, so that several live in one process."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


class ServiceMetrics:
    """Counters and histograms of one replica.

    Attributes:
        requests: HTTP requests by route and status.
        request_seconds: Time to answer, by route.
        pages: Pages served, by what stood in for the first choice (`none` where nothing did).
        short_pages: Pages with fewer items than asked for, by whether they hold `some` or `none`.
        batch_size: Requests answered together.
        store_seconds: One read of histories.
        store_corrupted: Damaged or foreign blobs met in the store.
        store_failures: Reads the store did not answer.
        newest_event: Time of the newest event in the store, Unix seconds.
        release: 1, labelled with release and arm.
        delta: Number of the newest catalogue delta served.
        delta_refused: 1 while a newer delta cannot be used.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "HTTP requests", ["route", "status"])
        self.request_seconds = self._histogram("request_seconds", "Seconds to answer", _SECONDS, ["route"])
        self.pages = self._counter("pages", "Pages served", ["fallback"])
        self.short_pages = self._counter("short_pages", "Pages with fewer items than asked for", ["items"])
        self.batch_size = self._histogram("batch_size", "Requests answered together", _BATCHES)
        self.store_seconds = self._histogram("store_read_seconds", "Seconds to read histories", _SECONDS)
        self.store_corrupted = self._gauge("store_corrupted", "Damaged or foreign blobs met")
        self.store_failures = self._counter("store_failures", "Reads the store did not answer")
        self.newest_event = self._gauge("store_newest_event_time_seconds", "Newest event in the store, Unix seconds")
        self.release = self._gauge("release_info", "What is served", ["release", "arm"])
        self.delta = self._gauge("catalogue_delta", "Newest catalogue delta served")
        self.delta_refused = self._gauge("catalogue_delta_refused", "1 while a newer catalogue delta cannot be used")

    def text(self) -> bytes:
        """Return everything in Prometheus's text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, help: str, labels: list[str] | None = None) -> Counter:
        return Counter(f"pagewise_{name}", help, labels or [], registry=self.registry)

    def _gauge(self, name: str, help: str, labels: list[str] | None = None) -> Gauge:
        return Gauge(f"pagewise_{name}", help, labels or [], registry=self.registry)

    def _histogram(
        self, name: str, help: str, buckets: tuple[float, ...], labels: list[str] | None = None
    ) -> Histogram:
        return Histogram(f"pagewise_{name}", help, labels or [], buckets=buckets, registry=self.registry)
