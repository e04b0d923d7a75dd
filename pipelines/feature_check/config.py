"""Options of the feature check; imports nothing heavy."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureCheckConfig:
    """What of a day's features is worth an alert."""

    mismatch_alert: float = 0.001
    """Share of the values of a feature that may differ from what batch finds, where the service had all events."""

    stale_after_s: float = 60.0
    """Seconds by which the store may lag behind the events: a state that lacks an older event is late."""

    late_alert: float = 0.001
    """Share of the pages whose state may be late, and of those without a state although the user had events."""

    ahead_alert: float = 0.01
    """Share of the pages whose state may hold events that batch does not know, or that are not before the page."""

    item_days: int = 3
    """Features of items are looked for among those of so many earlier midnights: how far behind they were. Those of
    the midnight before the last are normal until the nightly job has run; older ones are late."""

    drift_alert: float = 0.25
    """Population stability index above which a feature of the served pages is spread otherwise than in training, where
    chance does not explain it."""

    drift_days: int = 28
    """Newest days of the training split that served pages are held against."""

    def __post_init__(self) -> None:
        """Collect every mistake into one error."""
        mistakes = [
            f"{name}: expected a share, 0 to 1, got {getattr(self, name)}"
            for name in ("mismatch_alert", "late_alert", "ahead_alert")
            if not 0 <= getattr(self, name) <= 1
        ]
        for name in ("stale_after_s", "drift_alert"):
            if not getattr(self, name) > 0:
                mistakes.append(f"{name}: expected a positive number, got {getattr(self, name)}")
        if self.item_days < 1:
            mistakes.append(f"item_days: expected at least 1, got {self.item_days}")
        if self.drift_days < 1:
            mistakes.append(f"drift_days: expected at least 1, got {self.drift_days}")
        if mistakes:
            raise ValueError("feature_check: " + "; ".join(mistakes))
