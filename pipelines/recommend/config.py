"""Options of batch recommendation; imports nothing heavy."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecommendJobConfig:
    """How pages for all users are made."""

    page_size: int | None = None
    """Items per page; none for the release's own."""

    explore: bool = False
    """Draw pages as the service would, with propensities; else the best page, with propensities of 1."""

    users_per_batch: int = 512
    """Users answered together: more are faster, and need more memory."""

    shards: int = 16
    """Parts of the output; the users of one part are in memory at once. Neither this nor `users_per_batch` changes a
    page."""

    def __post_init__(self) -> None:
        """Collect every mistake into one error."""
        at_least_one = {"users_per_batch": self.users_per_batch, "shards": self.shards}
        if self.page_size is not None:
            at_least_one["page_size"] = self.page_size
        mistakes = [f"{name}: expected at least 1, got {value}" for name, value in at_least_one.items() if value < 1]
        if mistakes:
            raise ValueError("recommend_job: " + "; ".join(mistakes))
