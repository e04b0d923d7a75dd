"""The streaming pipeline as a process: Redis, the lease, the driver, and what happens when it is told to end."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import signal
import threading
from collections.abc import Callable, Iterator, Sequence

from features.store.backfill import STREAM
from features.store.base import LeaseHeldError, LeaseLostError, StoreUnavailableError, WriterLease
from features.store.config import StoreConfig
from features.store.embedded import EmbeddedRedis
from features.store.redis_store import RedisStore
from features.stream.config import StreamConfig
from features.stream.opening import open_stream, require_client
from features.workspace import Workspace
from pipelines.batch.config import PagesConfig
from pipelines.streaming.driver import RETRY_S, StreamDriver
from pipelines.streaming.folding import Folding
from pipelines.streaming.growth import CatalogueGrowth, Champion
from pipelines.streaming.log import Range, committed_log
from pipelines.streaming.metrics import StreamMetrics
from pipelines.streaming.online import online_config
from pipelines.streaming.source import require_source

LEASE_S = 10.0
"""Seconds after which another process may take over from one that was killed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamReport:
    """What a run took up.

    Attributes:
        counts: Rows by table and what became of them (`pipelines.streaming.log.Range`), of this run.
        position: Everything up to this position of the stream is done.
        log: Where the log lies.
        ranges: Ranges taken up.
    """

    counts: dict[str, int]
    position: int
    log: str
    ranges: int

    def lines(self) -> list[str]:
        """Return the report as lines for a terminal."""
        lines = [f"stream: {self.ranges:,} ranges, log in {self.log}"]
        for table in dict.fromkeys(name.split(".")[0] for name in sorted(self.counts)):
            named = {name.split(".", 1)[1]: rows for name, rows in self.counts.items() if name.startswith(f"{table}.")}
            if any(named.values()):
                lines.append(
                    f"{table}: " + ", ".join(f"{what} {rows:,}" for what, rows in sorted(named.items()) if rows)
                )
        return lines


@dataclasses.dataclass(frozen=True, kw_only=True)
class Running:
    """A pipeline that has started.

    Attributes:
        metrics_url: Where Prometheus can ask; None without `stream.metrics_port`.
        position: Where it goes on.
        backlog: Messages that wait.
    """

    metrics_url: str | None
    position: int
    backlog: int


def run_stream(
    workspace: Workspace,
    stream_config: StreamConfig,
    store_config: StoreConfig,
    pages_config: PagesConfig,
    *,
    stopping: threading.Event,
    champion: Champion = lambda: contextlib.nullcontext(None),
    ready: Callable[[Running], None] = lambda running: None,
    progress: Callable[[Range, StreamMetrics], None] = lambda done, metrics: None,
    say: Callable[[str], None] = lambda line: None,
    lease_s: float = LEASE_S,
    wait_s: float = 1.5 * LEASE_S,
    beam_options: Sequence[str] = (),
) -> StreamReport:
    """Take up the event stream until `stopping` is set, or, with `stream.until_empty`, until nothing waits.

    Args:
        workspace: Takes the log; its embedded Redis is used unless `store_config` names another.
        stream_config: The stream.
        store_config: The online store.
        pages_config: How events without a request id form pages.
        stopping: Set from elsewhere; the present range is finished first.
        champion: See `pipelines.streaming.growth.CatalogueGrowth`.
        ready: Called once the first message can be taken up.
        progress: Called after each range.
        say: Takes lines for the terminal.
        lease_s: Seconds after which another process may take over from this one, should it be killed.
        wait_s: How long to wait for another process that takes up the stream, unless it lives on this machine.
        beam_options: Beam's own options; default: in this process.

    Raises:
        LeaseHeldError: Another process takes up the same stream, or has taken over from this one.
        LeaseLostError: Redis did not answer for too long, with `stream.until_empty`; else the lease is taken again.
        StoreUnavailableError: Redis does not answer at the start.
        ValueError: The source needs what is not at hand or is another than the log was taken from, or a port is taken.
    """
    require_client(stream_config)
    require_source(workspace, stream_config)
    with contextlib.ExitStack() as cleanup:
        url, embedded = store_config.url, None
        if url is None:
            embedded = cleanup.enter_context(EmbeddedRedis(workspace.local_path("store"), store_config.durability))
            url = embedded.url
        said = ""

        def trouble(error: Exception) -> None:
            nonlocal said
            if str(error) != said:  # again and again, it is the same
                said = str(error)
                say(f"{error}; trying again")
            if embedded is not None:
                embedded.revive()

        store = cleanup.enter_context(RedisStore(url, store_config))
        stream = cleanup.enter_context(open_stream(stream_config, url, store_config.namespace, store_config.timeout_s))
        metrics = StreamMetrics()
        metrics_url = None
        if stream_config.metrics_port is not None:
            port = metrics.serve(stream_config.metrics_host, stream_config.metrics_port)
            metrics_url = f"http://{stream_config.metrics_host}:{port}/metrics"
        growth = CatalogueGrowth(workspace, champion, metrics, say)
        cleanup.push(lambda kind, *_: growth.close(finish=kind is None))
        folding = Folding(
            store_url=url,
            store=store_config,
            stream=stream_config,
            online=online_config(stream_config, pages_config, store_config),
        )
        before = committed_log(workspace)
        ranges, started = 0, False

        def done(taken: Range) -> None:
            nonlocal ranges, said
            ranges, said = ranges + 1, ""
            progress(taken, metrics)

        def drive(lease: WriterLease) -> None:
            nonlocal started
            driver = StreamDriver(workspace, store, stream, folding, lease, metrics, growth.wake, beam_options)
            gc.collect()
            gc.freeze()  # Beam's modules are half a million objects: looking through them takes 0.1 s each time
            if not started:
                waiting = stream.backlog(driver.log.position)
                ready(Running(metrics_url=metrics_url, position=driver.log.position, backlog=waiting))
                started = True
            driver.run(stopping, done, trouble)

        cleanup.callback(gc.unfreeze)
        ended = False
        while not ended:
            try:
                with _lease(store, lease_s, wait_s, say) as lease:
                    growth.wake()
                    drive(lease)
                    ended = True
            except (LeaseLostError, StoreUnavailableError) as error:
                if not started or stream_config.until_empty:
                    raise
                ended = stopping.wait(RETRY_S)
                if not ended:
                    trouble(error)
        after = committed_log(workspace)
        counts = {name: rows - before.counts.get(name, 0) for name, rows in after.counts.items()}
        return StreamReport(counts=counts, position=after.position, log=workspace.path("stream", "log"), ranges=ranges)


def _lease(store: RedisStore, lease_s: float, wait_s: float, say: Callable[[str], None]) -> WriterLease:
    """Become the stream's only writer; who was killed is waited for, for who lives nobody waits."""
    try:
        return store.writer_lease(STREAM, lease_s)
    except LeaseHeldError as held:
        if held.lives_here or not wait_s:
            raise
        say(f"{held}; waiting for that, {wait_s:g} s at most")
    return store.writer_lease(STREAM, lease_s, wait_s=wait_s)


@contextlib.contextmanager
def stopping_on_signals() -> Iterator[threading.Event]:
    """Return an event that SIGTERM and Ctrl-C set while the block runs."""
    stopping = threading.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, lambda *_: stopping.set()) for number in signals}
    try:
        yield stopping
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
