"""Options of the service; imports nothing heavy."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """How requests are accepted, batched and answered."""

    host: str = "127.0.0.1"
    """Address to listen on; anything but loopback shows the service to the network, without a password."""

    port: int = 8000
    """TCP port; 0 takes a free one."""

    max_batch: int = 32
    """Requests answered together."""

    batch_wait_ms: float = 0.0
    """Milliseconds the first request of a batch waits for others; adds to every answer of a quiet service. With 0,
    requests that arrive while a batch is being answered still form the next one."""

    max_ongoing_requests: int = 128
    """Requests inside the replica at once; more wait outside. At least `max_batch`, or batches never fill."""

    max_queued_requests: int = 512
    """Requests that wait outside; more are refused with 503 at once."""

    request_timeout_s: float = 2.0
    """After this many seconds a request is answered from the popular list, and the answer says so."""

    replica_cpus: float = 0.5
    """CPUs that Ray reserves for the replica; a reservation, not a limit."""

    threads: int = 1
    """Threads of torch in the replica."""

    refresh_s: float = 10.0
    """Seconds between looks whether the online store holds a new generation of item facts."""

    deltas_s: float = 1.0
    """Seconds between looks whether the release has new catalogue deltas (`pagewise catalogue`)."""

    def __post_init__(self) -> None:
        """Collect every mistake into one error."""
        mistakes = []
        if not 0 <= self.port <= 65_535:
            mistakes.append(f"port: expected 0 to 65535, got {self.port}")
        positive = ("max_batch", "max_ongoing_requests", "max_queued_requests", "request_timeout_s", "replica_cpus")
        for name in (*positive, "threads", "refresh_s", "deltas_s"):
            if getattr(self, name) <= 0:
                mistakes.append(f"{name}: expected a positive number, got {getattr(self, name)}")
        if self.batch_wait_ms < 0:
            mistakes.append(f"batch_wait_ms: expected 0 or more, got {self.batch_wait_ms}")
        if self.max_ongoing_requests < self.max_batch:
            mistakes.append(
                f"max_ongoing_requests: expected at least max_batch = {self.max_batch}, got {self.max_ongoing_requests}"
            )
        if mistakes:
            raise ValueError("serve: " + "; ".join(mistakes))
