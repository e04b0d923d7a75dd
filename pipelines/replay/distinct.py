"""Counts distinct users of any number, exactly while they are few.

Adaptive sampling (Wegman; Flajolet 1990, On adaptive sampling, Computing 43): keep the hashes that end in at least
`level` zero bits, and raise the level when there are too many; each kept one stands for `2^level`. What is kept depends
on the set of users only, not on order, chunks or merges.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from kernels.hashing import combine_hashes, hash_integers
from pipelines.replay.rounds import Hashes, Ints

CAPACITY = 1 << 20
"""Users kept: so many, and fewer, are counted exactly in 8 MiB; beyond, the relative standard error is about 0.1 %."""
_BUCKET_SALT, _LEVEL_SALT = 1, 2


def bucket_of(users_R: Hashes, buckets: int) -> Ints:
    """Return each user's bucket, `[R]`: all pages of a user lie in one.

    The user hashes are hashed again, so that any distinct numbers spread evenly.
    """
    mixed_R = hash_integers(users_R.view(np.int64), salt=_BUCKET_SALT)
    return (mixed_R % np.uint64(buckets)).astype(np.int64)


@dataclasses.dataclass
class DistinctUsers:
    """A mergeable set of users, or an even sample of it.

    Attributes:
        capacity: Most users kept.
        level: Each kept user stands for `2^level`.
        users: Their hashes, ascending.
    """

    capacity: int = CAPACITY
    level: int = 0
    users: Hashes = dataclasses.field(default_factory=lambda: np.empty(0, dtype=np.uint64))

    def add(self, users_R: Hashes) -> None:
        """Add users, each once or often."""
        self._keep(_together(self.users, _of_level(_together(users_R), self.level)))

    def merge(self, other: DistinctUsers) -> None:
        """Add all users of another set of the same capacity."""
        self.level = max(self.level, other.level)
        self._keep(_of_level(_together(self.users, other.users), self.level))

    def count(self) -> int:
        """Return the number of distinct users."""
        return len(self.users) << self.level

    def per_bucket(self, buckets: int) -> Ints:
        """Return their number in each bucket, `[buckets]`."""
        return np.bincount(bucket_of(self.users, buckets), minlength=buckets) << self.level

    def _keep(self, users: Hashes) -> None:
        while len(users) > self.capacity:
            self.level += 1
            users = _of_level(users, self.level)
        self.users = users


def _of_level(users: Hashes, level: int) -> Hashes:
    mask = np.uint64((1 << level) - 1)
    return users[(combine_hashes(users) ^ np.uint64(_LEVEL_SALT)) & mask == 0] if level else users


def _together(*parts: Hashes) -> Hashes:
    """Return the distinct hashes of all parts, ascending; `np.unique` takes 100 times as long."""
    users = np.sort(np.concatenate(parts), kind="stable")  # parts that are sorted already are merged
    return users[np.append(True, users[1:] != users[:-1])] if len(users) else users
