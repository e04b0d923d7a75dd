"""What a stage says at its end: counts in, out and dropped by reason, seconds, rate, memory, where the results lie."""

from __future__ import annotations

import dataclasses
import resource
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageReport:
    """The end of one stage.

    Example:
        >>> report = StageReport(
        ...     name="validate",
        ...     counts={"events.in": 3, "events.out": 2, "events.dropped.null_id": 1},
        ...     seconds=0.5,
        ...     peak_rss_mb=100.0,
        ...     outputs={"clean_events": "ws/tables/clean_events"},
        ... )
        >>> report.rows_per_second
        6.0
        >>> print(report.lines()[1])
          events: 3 in, 2 out, 1 dropped (1 null_id)
    """

    name: str
    counts: Mapping[str, int]
    """`<table>.in`, `<table>.out` and `<table>.dropped.<reason>`; rows."""
    seconds: float
    peak_rss_mb: float
    """Peak resident memory of this process so far, MB."""
    outputs: Mapping[str, str]
    """Table -> where it lies."""
    notes: tuple[str, ...] = ()
    """What else a reader should look at, a line each."""
    next_command: str | None = None
    """What a user would run next; the command line fills it in."""

    @property
    def rows_in(self) -> int:
        """Rows read from all inputs."""
        return sum(count for name, count in self.counts.items() if name.endswith(".in"))

    @property
    def rows_per_second(self) -> float:
        """Rows read per second."""
        return self.rows_in / self.seconds if self.seconds > 0 else 0.0

    def lines(self) -> list[str]:
        """Return the report as lines for a terminal."""
        lines = [
            f"{self.name}: {self.seconds:.1f} s, {self.rows_per_second:,.0f} rows/s, "
            f"peak memory {self.peak_rss_mb:,.0f} MB"
        ]
        lines += [f"  {table}: {self._counts_of(table)}" for table in self._tables()]
        lines += [f"  {note}" for note in self.notes]
        lines += [f"  wrote {path}" for path in self.outputs.values()]
        if self.next_command:
            lines.append(f"  next: {self.next_command}")
        return lines

    def _tables(self) -> list[str]:
        return list(dict.fromkeys(name.split(".")[0] for name in self.counts))

    def _counts_of(self, table: str) -> str:
        parts = [
            f"{self.counts[f'{table}.{kind}']:,} {kind}" for kind in ("in", "out") if f"{table}.{kind}" in self.counts
        ]
        prefix = f"{table}.dropped."
        dropped = {name.removeprefix(prefix): n for name, n in self.counts.items() if name.startswith(prefix) and n}
        if dropped:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(dropped.items()))
            parts.append(f"{sum(dropped.values()):,} dropped ({reasons})")
        return ", ".join(parts)


def peak_rss_mb() -> float:
    """Return the peak resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
