"""Options of the online store; imports nothing heavy."""

from __future__ import annotations

import dataclasses
from urllib.parse import urlsplit

URL_SCHEMES = ("redis", "rediss", "unix")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoreConfig:
    """Where online features live and how long they are kept."""

    url: str | None = None
    """`redis://`, `rediss://` or `unix://` URL; none starts an embedded Redis for this workspace."""

    namespace: str = "pagewise"
    """First part of every key: several workspaces may share one Redis under different names."""

    ttl_days: float = 90.0
    """Days after its last write when an entry expires."""

    history_length: int = 200
    """Newest events kept per user (positive events and dislikes)."""

    timeout_s: float = 2.0
    """Seconds to wait for Redis to accept a connection or to answer; the service waits at most a quarter of its
    `request_timeout_s`."""

    def __post_init__(self) -> None:
        """Collect every mistake into one error."""
        mistakes = []
        if self.url is not None and urlsplit(self.url).scheme not in URL_SCHEMES:
            mistakes.append(f"url: expected redis://, rediss:// or unix://, or nothing for embedded, got {self.url!r}")
        if not self.namespace or ":" in self.namespace:
            mistakes.append(f"namespace: expected a name without colons, got {self.namespace!r}")
        for name in ("ttl_days", "history_length", "timeout_s"):
            if getattr(self, name) <= 0:
                mistakes.append(f"{name}: expected a positive number, got {getattr(self, name)}")
        if mistakes:
            raise ValueError("store: " + "; ".join(mistakes))
