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

    max_in_flight: int = 128
    """Requests inside the service at once, waiting ones included; more are refused at once with 503 and Retry-After. Of
    pages, as many as the machine answers within `longest_wait`, if those are fewer; at least `max_batch`, or batches
    never fill."""

    longest_wait: float = 0.25
    """Part of `request_timeout_s`, 0 to 1, that a page may take when there are more requests than can be answered; the
    rest is refused at once. With less, batches may not fill; with much more, answers come after their deadline."""

    request_timeout_s: float = 2.0
    """After this many seconds a request is answered from the popular list, and the answer says so."""

    haproxy: bool = False
    """Whether HAProxy stands before the replicas instead of Ray's own proxy: several times the requests per second.
    The gate is then in each replica: `max_in_flight` and `rate_per_s` hold for each, addresses are not told apart.
    Its own statistics, on ports of their own, are shown on all interfaces: fence the machine."""

    replicas: int = 1
    """Processes that make pages; each holds the whole release but for the models of stages that have their own."""

    retrieval_replicas: int = 0
    """Processes that hold GenRec and the two-tower model for those that make pages, which share a batch out among them;
    with 0, each of those holds them itself."""

    ranking_replicas: int = 0
    """Processes that hold the ranker, likewise."""

    stage_cpus: float = 1.0
    """CPUs that Ray reserves for each process of these two stages."""

    part_timeout_s: float = 1.0
    """A retriever or ranker that takes longer for a batch is left out of its pages, which say so, and rests a while; at
    most half of `request_timeout_s` counts."""

    cursor_ttl_s: float = 600.0
    """Seconds for which the next page of a list can be asked for; a list takes about 3 KB of Redis meanwhile."""

    challenger_share: float = 0.0
    """Share of the users, 0 to 1, that get their pages from the challenger, if there is one; 0 does not load it."""

    challenger_salt: str | None = None
    """Draws these users, by a hash; another text draws others. With null it is the challenger's release id: each
    challenger gets users of its own, who do not still feel the one before."""

    feature_log_share: float = 0.01
    """Share of the pages, 0 to 1, for which what was read of user and items is logged, for `pagewise check-features`: a
    few KB each."""

    replica_cpus: float = 0.5
    """CPUs that Ray reserves for the replica; a reservation, not a limit."""

    threads: int = 1
    """Threads of torch in each process."""

    refresh_s: float = 10.0
    """Seconds between looks whether the online store holds a new generation of item facts."""

    deltas_s: float = 1.0
    """Seconds between looks whether the release has new catalogue deltas (`pagewise catalogue`)."""

    keys_file: str | None = None
    """File of API keys, one `name:sha256 of the key[:requests per second]` per line (`python -m serving.access NAME`
    makes one); null asks for none, unless the environment variable PAGEWISE_API_KEYS holds such lines."""

    max_body_bytes: int = 1_048_576
    """Bytes of a request's body; more are refused with 413 before they are read."""

    rate_per_s: float = 0.0
    """Requests per second of one API key, or of one address where there are no keys; more are refused with 429 and
    Retry-After. 0 sets no limit."""

    log_file: str | None = None
    """File that gets one line of JSON per request (`/proc/1/fd/1` is the output of a container); null writes none."""

    def __post_init__(self) -> None:
        """Collect every mistake into one error."""
        mistakes = []
        if not 0 <= self.port <= 65_535:
            mistakes.append(f"port: expected 0 to 65535, got {self.port}")
        positive = ("max_batch", "max_in_flight", "request_timeout_s", "replicas", "replica_cpus", "stage_cpus")
        for name in (*positive, "threads", "refresh_s", "deltas_s", "max_body_bytes", "part_timeout_s", "cursor_ttl_s"):
            if getattr(self, name) <= 0:
                mistakes.append(f"{name}: expected a positive number, got {getattr(self, name)}")
        for name in ("batch_wait_ms", "rate_per_s", "retrieval_replicas", "ranking_replicas"):
            if getattr(self, name) < 0:
                mistakes.append(f"{name}: expected 0 or more, got {getattr(self, name)}")
        if self.max_in_flight < self.max_batch:
            mistakes.append(f"max_in_flight: expected at least max_batch = {self.max_batch}, got {self.max_in_flight}")
        if not 0 < self.longest_wait <= 1:
            mistakes.append(f"longest_wait: expected more than 0, 1 at most, got {self.longest_wait}")
        for name in ("challenger_share", "feature_log_share"):
            if not 0 <= getattr(self, name) <= 1:
                mistakes.append(f"{name}: expected 0 to 1, got {getattr(self, name)}")
        if mistakes:
            raise ValueError("serve: " + "; ".join(mistakes))
