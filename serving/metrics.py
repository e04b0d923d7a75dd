"""The service's own Prometheus metrics: of one process, or of all processes of the node that share a folder.

Where the environment names a folder (`PROMETHEUS_MULTIPROC_DIR`, set by `serving.run` for the processes it starts),
each process keeps its values in files there, and whichever replica is asked answers for all. Counters of processes that
ended stay, their gauges go.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable that prometheus_client looks at when it is imported."""

PREFIX = "pagewise_"
REFUSED_RELEASES = f"{PREFIX}refused_releases"
"""A counter, kept in a file of the shared folder: what starts and swaps releases answers no requests itself."""

Together = Literal["livemax", "livesum"]
"""How one gauge of several replicas becomes one number."""

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


class ServiceMetrics:
    """Counters and histograms of one replica.

    Attributes:
        requests: HTTP requests by route and status.
        request_seconds: Time to answer, by route.
        pages: Pages served, by what stood in for the first choice (`none` where nothing did).
        short_pages: Pages with fewer items than asked for, by whether they hold `some` or `none`.
        served_items: Items of served pages.
        invalid_items: Those of them that should not have been served, by why (`serving.validity`).
        batch_size: Requests answered together.
        stage_seconds: One stage of making a batch of pages: `store`, `cursors`, `candidates` (all of retrieval, fusion
            and ranking), `policy`, and of `candidates` each guarded retriever by its name, and `ranker`.
        part_failures: Batches for which a retriever or ranker gave no answer, by part and `error` or `deadline`; after
            each it rests.
        cursors: Requests with a cursor, by what became of them: `continued`, `refreshed`, `repeated`, `refused`.
        events: Events sent by clients, `accepted` or `rejected`.
        logged_pages: Served pages, by whether the stream has them (`logged`) or they were given up (`dropped`).
        logged_features: Rows of what was read for pages, likewise.
        waiting_pages: Served pages, and rows of what was read for them, that the stream does not have yet.
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
        self.served_items = self._counter("served_items", "Items of served pages")
        self.invalid_items = self._counter("invalid_items", "Served items that should not have been", ["reason"])
        self.batch_size = self._histogram("batch_size", "Requests answered together", _BATCHES)
        self.stage_seconds = self._histogram("stage_seconds", "Seconds of one stage of a batch", _SECONDS, ["stage"])
        self.part_failures = self._counter("part_failures", "Batches a part did not answer", ["part", "reason"])
        self.cursors = self._counter("cursors", "Requests with a cursor", ["outcome"])
        self.events = self._counter("events", "Events sent by clients", ["verdict"])
        self.logged_pages = self._counter("logged_pages", "Served pages sent to the stream", ["outcome"])
        self.logged_features = self._counter("logged_features", "Features read for pages, sent on", ["outcome"])
        self.waiting_pages = self._gauge("waiting_pages", "Served pages not on the stream yet", together="livesum")
        self.store_seconds = self._histogram("store_read_seconds", "Seconds to read histories", _SECONDS)
        self.store_corrupted = self._gauge("store_corrupted", "Damaged or foreign blobs met", together="livesum")
        self.store_failures = self._counter("store_failures", "Reads the store did not answer")
        self.newest_event = self._gauge("store_newest_event_time_seconds", "Newest event in the store, Unix seconds")
        self.release = self._gauge("release_info", "What is served", ["release", "arm"])
        self.delta = self._gauge("catalogue_delta", "Newest catalogue delta served", ["arm"])
        self.delta_refused = self._gauge(
            "catalogue_delta_refused", "1 while a newer catalogue delta cannot be used", ["arm"]
        )

    def text(self) -> bytes:
        """Return everything in Prometheus's text format, of all processes where a folder is shared."""
        return text_of(self.registry)

    def _counter(self, name: str, help: str, labels: list[str] | None = None) -> Counter:
        return Counter(f"{PREFIX}{name}", help, labels or [], registry=self.registry)

    def _gauge(self, name: str, help: str, labels: list[str] | None = None, together: Together = "livemax") -> Gauge:
        return Gauge(f"{PREFIX}{name}", help, labels or [], registry=self.registry, multiprocess_mode=together)

    def _histogram(
        self, name: str, help: str, buckets: tuple[float, ...], labels: list[str] | None = None
    ) -> Histogram:
        return Histogram(f"{PREFIX}{name}", help, labels or [], buckets=buckets, registry=self.registry)


class GateMetrics:
    """What happens to requests before a replica sees them.

    Attributes:
        refused: Requests answered without a replica, by reason.
        in_flight: Requests inside the service now.
        page_limit: Pages that may be inside at once by now (`serving.admission`).
        seconds: From a request's arrival to the end of its answer, refused ones left out.
        log_failures: Lines of the request log that could not be written.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.refused = Counter(
            "pagewise_refused", "Requests answered without a replica", ["reason"], registry=self.registry
        )
        self.in_flight = Gauge(
            "pagewise_in_flight", "Requests inside the service", registry=self.registry, multiprocess_mode="livesum"
        )
        self.page_limit = Gauge(
            "pagewise_page_limit", "Pages that may be inside", registry=self.registry, multiprocess_mode="livesum"
        )
        self.seconds = Histogram(
            "pagewise_gate_seconds", "Seconds inside the service", buckets=_SECONDS, registry=self.registry
        )
        self.log_failures = Counter(
            "pagewise_log_failures", "Request log lines that could not be written", registry=self.registry
        )


def text_of(registry: CollectorRegistry) -> bytes:
    """Return a registry's metrics in Prometheus's text format, or all that share the folder if there is one."""
    folder = os.environ.get(SHARED_FOLDER)
    if folder is None:
        return generate_latest(registry)
    _forget_ended(Path(folder))
    together = CollectorRegistry()
    together.register(_Shared(folder))
    return generate_latest(together)


class _Shared(Collector):
    """What processes of the service keep in a folder; Ray's own processes find it too, and are left out."""

    def __init__(self, folder: str) -> None:
        self._all = MultiProcessCollector(None, folder)  # type: ignore[no-untyped-call]
        self._folder = Path(folder)

    def collect(self) -> list[Metric]:
        """Return the metrics of all processes as one."""
        found = self._all.collect()  # type: ignore[no-untyped-call]
        own = [metric for metric in found if metric.name.startswith(PREFIX)]
        refused = CounterMetricFamily(
            REFUSED_RELEASES,
            "Releases that were to be served and could not be",
            refused_releases(self._folder),
        )
        return [*own, refused]


def count_refused_release(folder: Path) -> None:
    """Count a release that was to be served and could not be.

    Args:
        folder: Shared by the processes of the service; only one of them counts these.
    """
    (folder / REFUSED_RELEASES).write_text(str(refused_releases(folder) + 1))


def refused_releases(folder: Path) -> int:
    """Return how many there were."""
    file = folder / REFUSED_RELEASES
    return int(file.read_text() or 0) if file.exists() else 0


def _forget_ended(folder: Path) -> None:
    """Remove the gauges of processes that are no more: what they served, nobody serves."""
    for pid in {file.stem.rpartition("_")[2] for file in folder.glob("gauge_live*_*.db")}:
        if not Path("/proc", pid).exists():
            mark_process_dead(pid, folder)  # type: ignore[no-untyped-call]
