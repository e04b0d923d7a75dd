"""Read-out of a live champion/challenger split from the pages that were logged.

Legend: `R` logged pages, `G` buckets of users, `A` the two arms (champion, challenger).
"""

from __future__ import annotations

import dataclasses

from pipelines.replay.rounds import Bools, Floats, Hashes, Ints


@dataclasses.dataclass(frozen=True, kw_only=True)
class LivePages:
    """Final pages of both arms, and earlier ones of the same users.

    All pages of a user must come together in one of these.

    Attributes:
        users_R: Hash of each page's user.
        challenger_R: Whether the challenger made it; of no account before the split.
        before_R: Whether it was shown before the split began.
        rewards_R: Reward of the page, all items together.
        items_R: Shown items.
    """

    users_R: Hashes
    challenger_R: Bools
    before_R: Bools
    rewards_R: Floats
    items_R: Ints
