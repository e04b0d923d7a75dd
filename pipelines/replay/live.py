"""Read-out of a live champion/challenger split from the pages that were logged.

Legend: `R` logged pages, `U` users, `G` buckets of users, `A` the two arms: champion, challenger; `S` sides (above 0,
below 0), `M` sums of absolute values and of squares.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kernels.hashing import hash_strings
from models.registry import CHALLENGER, CHAMPION
from pipelines.batch.arrow import milliseconds
from pipelines.replay.buckets import BucketSums
from pipelines.replay.config import ReplayConfig
from pipelines.replay.rounds import Bools, Floats, Hashes, Ints
from pipelines.replay.unseen_rewards import sides
from pipelines.replay.usable import REWARD_OUT_OF_RANGE, reward_range

NO_ARM, BOTH_ARMS, OTHER_RELEASE = "no_arm", "both_arms", "other_release"
"""Why a page of the time of the split does not count: it says no arm; its user had pages of both; another release than
the arm's made it."""
_NONE, _OTHER = -1, -2


@dataclasses.dataclass(frozen=True, kw_only=True)
class LivePages:
    """Final pages of both arms, and earlier ones of the same users.

    All pages of a user must lie in one of these, since whether a user had pages of both arms shows only there.

    Attributes:
        users_R: Hash of each page's user.
        arms_R: 0 for champion, 1 for challenger, -1 for none, -2 for another release; of no account before the split.
        before_R: Whether the page is older than the split.
        rewards_R: Reward of the page, all items together.
        items_R: Shown items.
    """

    users_R: Hashes
    arms_R: Ints
    before_R: Bools
    rewards_R: Floats
    items_R: Ints

    @classmethod
    def of(cls, pages: pa.Table, rewards_R: Floats, starts_ms: int, releases: tuple[str | None, str | None]) -> Self:
        """Read rows of `pages`.

        Args:
            pages: All final pages of some users.
            rewards_R: Reward of each page.
            starts_ms: When the split began, milliseconds since 1970 UTC.
            releases: Of champion and challenger; pages of an arm by another release do not count.
        """
        arms = pc.index_in(pages.column("arm"), value_set=pa.array([CHAMPION, CHALLENGER]))
        arms_R = np.asarray(pc.fill_null(arms, _NONE), dtype=np.int64)
        expected = pa.array([release or "" for release in releases]).take(pa.array(np.maximum(arms_R, 0)))
        its_own_R = np.asarray(pc.equal(pc.fill_null(pages.column("release"), ""), expected))
        return cls(
            users_R=hash_strings(pages.column("user_id")),
            arms_R=np.where((arms_R >= 0) & ~its_own_R, _OTHER, arms_R),
            before_R=milliseconds(pages.column("timestamp")) < starts_ms,
            rewards_R=rewards_R,
            items_R=np.asarray(pc.list_value_length(pages.column("items")), dtype=np.int64),
        )

    def take(self, rows: Bools) -> LivePages:
        """Return the pages of these rows."""
        return LivePages(**{field.name: getattr(self, field.name)[rows] for field in dataclasses.fields(self)})


class LiveSums:
    """Adds pages of both arms up by bucket of users.

    Attributes:
        sums_GA5: Reward, pages, shown items and users of the split, and the same users' reward before it.
        rewarded_A: Users with a reward other than 0 in the split.
        rewards_ASM: How large users' rewards in the split are.
        left_out: Pages of the time of the split that do not count, by reason.
        crossed: Users with pages of both arms, who do not count.

    Args:
        config: Of the replay.
    """

    def __init__(self, config: ReplayConfig) -> None:
        self._config = config
        self.sums_GA5 = np.zeros((config.buckets, 2, 5))
        self.rewarded_A = np.zeros(2, dtype=np.int64)
        self.rewards_ASM = np.zeros((2, 2, 2))
        self.left_out: Counter[str] = Counter()
        self.crossed = 0

    def add(self, pages: LivePages) -> LiveSums:
        """Add whole users, and return this."""
        pages = self._counting(pages)
        users_U, user_R = np.unique(pages.users_R, return_inverse=True)
        arm_of_U = self._arms(pages, user_R, len(users_U))

        def by_user(rows_R: Bools, values_R: Floats | Ints) -> Floats:
            counts_U = np.bincount(user_R[rows_R], weights=values_R[rows_R], minlength=len(users_U))
            return counts_U.astype(np.float64)

        during_R = ~pages.before_R
        ones = np.ones(len(pages.users_R))
        sums_U5 = np.stack(
            [
                by_user(during_R, pages.rewards_R),
                by_user(during_R, ones),
                by_user(during_R, pages.items_R),
                np.ones(len(users_U)),
                by_user(pages.before_R, pages.rewards_R),
            ],
            axis=1,
        )
        arms_UA1 = (arm_of_U[:, None] == np.arange(2))[:, :, None]
        BucketSums(users_U, self._config.buckets).add(self.sums_GA5, sums_U5[:, None] * arms_UA1)
        rewards_AU = np.where(arms_UA1[:, :, 0], sums_U5[:, :1], 0.0).T
        self.rewarded_A += np.count_nonzero(rewards_AU, axis=1)
        self.rewards_ASM += np.stack([sides(rewards_U) for rewards_U in rewards_AU])
        return self

    def merge(self, other: LiveSums) -> LiveSums:
        """Add what another one added up, and return this."""
        self.sums_GA5 += other.sums_GA5
        self.rewarded_A += other.rewarded_A
        self.rewards_ASM += other.rewards_ASM
        self.left_out.update(other.left_out)
        self.crossed += other.crossed
        return self

    def _counting(self, pages: LivePages) -> LivePages:
        """Return the pages with a reward that can be, before the split or of an arm; count the others."""
        low, high = (bound * np.maximum(pages.items_R, 1) for bound in reward_range(self._config))
        possible_R = np.isfinite(pages.rewards_R) & (pages.rewards_R >= low) & (pages.rewards_R <= high)
        armed_R = pages.before_R | (pages.arms_R >= 0)
        self.left_out[REWARD_OUT_OF_RANGE] += int((~possible_R).sum())
        for reason, code in ((NO_ARM, _NONE), (OTHER_RELEASE, _OTHER)):
            self.left_out[reason] += int((possible_R & ~armed_R & (pages.arms_R == code)).sum())
        return pages.take(possible_R & armed_R)

    def _arms(self, pages: LivePages, user_R: Ints, users: int) -> Ints:
        """Return each user's arm, -1 for none or both; count pages of users with both."""
        during_R = ~pages.before_R
        has_UA = np.stack(
            [np.bincount(user_R[during_R & (pages.arms_R == arm)], minlength=users) > 0 for arm in (0, 1)], axis=1
        )
        both_U = has_UA[:, 0] & has_UA[:, 1]
        self.crossed += int(both_U.sum())
        self.left_out[BOTH_ARMS] += int((during_R & both_U[user_R]).sum())
        return np.where(has_UA.sum(axis=1) == 1, has_UA.argmax(axis=1), -1)
