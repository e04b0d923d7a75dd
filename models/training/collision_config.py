"""Options of tables for an endless stream of ids."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

Eviction = Literal["lfu", "lru", "distance_lfu"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CollisionConfig:
    """When ids get rows of their own, and which ids lose theirs. How many rows there are is said by the tables."""

    eviction: Eviction = "distance_lfu"
    """Who loses its row: the id seen least often (`lfu`: old favourites stay for ever), longest ago (`lru`), or the
    one with the fewest sightings for the time since its last (`distance_lfu`)."""
    eviction_interval: int = 100
    """Training steps between two admissions. All ids of so many steps are held in memory; until it is admitted an id
    shares one row with all others that have none."""

    def __post_init__(self) -> None:
        if self.eviction not in get_args(Eviction) or self.eviction_interval < 1:
            raise ValueError(
                f"managed collisions: expected one of {', '.join(get_args(Eviction))} as eviction and "
                f"eviction_interval >= 1, got {self.eviction!r} and {self.eviction_interval}"
            )
