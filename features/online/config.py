"""Options of the online folds; imports nothing heavy."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnlineConfig:
    """How events are folded as they arrive; as the stream, the batch pipelines and the store are configured."""

    lateness_hours: float = 48.0
    """An event at most this much older than the newest one is folded exactly, and its duplicates are known:
    `stream.lateness_hours`."""

    gap_minutes: float = 30.0
    """Events without a `request_id` form one page until the user pauses for longer: `batch.pages.gap_minutes`."""

    cap: int = 10
    """Most items of a page made from events without a `request_id`: `batch.pages.cap`."""

    history_length: int = 200
    """Newest entries kept in a user's history: `store.history_length`."""

    recent_events: int = 10_000
    """Newest events remembered per user, so that a machine that clicks all day cannot fill the store: about 40 bytes
    each. Duplicates and late events are exact among these."""

    def __post_init__(self) -> None:
        """Collect every mistake into one error."""
        names = ("lateness_hours", "gap_minutes", "cap", "history_length", "recent_events")
        mistakes = [
            f"{name}: expected a positive number, got {getattr(self, name)}"
            for name in names
            if not getattr(self, name) > 0
        ]
        if mistakes:
            raise ValueError("online: " + "; ".join(mistakes))

    @property
    def lateness_ms(self) -> int:
        """The lateness in milliseconds."""
        return round(self.lateness_hours * 3_600_000)

    @property
    def gap_ms(self) -> int:
        """The gap in milliseconds."""
        return int(self.gap_minutes * 60_000)
