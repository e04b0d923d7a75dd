"""How often items stood at positions, and what they earned there, by fold of users: the base of estimated rates.

Legend: `X` shown items, `Y` distinct (position, item) pairs, `V` items, `F` folds of users.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kernels.hashing import hash_integers
from pipelines.replay.logged import NOBODY, LoggedBatch
from pipelines.replay.rounds import Floats, Hashes, Ints

_FOLD_SALT = 3


def fold_of(users_R: Hashes, folds: int) -> Ints:
    """Return the fold of each user: models of the other folds judge their pages, `[R]`."""
    mixed_R = hash_integers(users_R.view(np.int64), salt=_FOLD_SALT)
    return (mixed_R % np.uint64(folds)).astype(np.int64)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Placed:
    """Shown items of a log.

    Attributes:
        ids: `X` item ids.
        positions_X, folds_X: Where each stood, and its user's fold.
        rewards_X: What it earned.
    """

    ids: pa.Array
    positions_X: Ints
    folds_X: Ints
    rewards_X: Floats

    @classmethod
    def of_batch(cls, batch: LoggedBatch, folds: int) -> Placed:
        """Return the shown items of pages."""
        row_X, slot_X = np.nonzero(batch.there_RP)
        return cls(
            ids=batch.items.take(pa.array(batch.shown_RP[row_X, slot_X])),
            positions_X=batch.positions_RP[row_X, slot_X],
            folds_X=fold_of(batch.users_R, folds)[row_X],
            rewards_X=batch.rewards_RP[row_X, slot_X],
        )


class PlacedSums:
    """Numbers of shows, and sums of rewards, of every item at every position.

    Args:
        parts: Shown items.
        folds: Folds of users.
    """

    def __init__(self, parts: list[Placed], folds: int) -> None:
        ids = pc.dictionary_encode(pa.chunked_array([part.ids for part in parts], pa.string()).combine_chunks())
        encoded = ids if isinstance(ids, pa.DictionaryArray) else ids.combine_chunks()
        self.items: pa.Array = encoded.dictionary
        self.folds = folds
        item_X = np.asarray(encoded.indices, dtype=np.int64)
        position_X, fold_X, reward_X = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("positions_X", "folds_X", "rewards_X")
        )
        self.keys_Y, place_X = np.unique(position_X * len(self.items) + item_X, return_inverse=True)
        self.shown_YF, self.reward_YF = (
            _summed(place_X * folds + fold_X, weights_X, len(self.keys_Y), folds)
            for weights_X in (np.ones(len(item_X)), reward_X)
        )

    def numbers(self, names: pa.Array) -> Ints:
        """Return the number of each item, `NOBODY` of one that was never shown."""
        return np.asarray(pc.fill_null(pc.index_in(names, value_set=self.items), NOBODY), dtype=np.int64)

    def elsewhere(self, positions: Ints, items: Ints, folds: Ints | None) -> tuple[Floats, Floats]:
        """Return shows and rewards of items at positions, of all folds but the one beside them.

        Args:
            positions: Positions.
            items: Item numbers, of a shape that broadcasts.
            folds: Folds that do not count, likewise; None to count all.
        """
        positions, items = np.broadcast_arrays(positions, items)
        keys = positions * len(self.items) + items
        place = np.minimum(np.searchsorted(self.keys_Y, keys), len(self.keys_Y) - 1)
        known = (self.keys_Y[place] == keys) & (items != NOBODY)
        return _but(self.shown_YF, place, folds) * known, _but(self.reward_YF, place, folds) * known

    def anywhere(self, items: Ints, folds: Ints | None) -> tuple[Floats, Floats]:
        """Return the same of items, wherever they stood."""
        item_Y = self.keys_Y % max(len(self.items), 1)
        known = items != NOBODY
        sums = []
        for values_YF in (self.shown_YF, self.reward_YF):
            values_VF = _by_group(item_Y, values_YF, len(self.items))
            sums.append(_but(values_VF, np.where(known, items, 0), folds) * known)
        return sums[0], sums[1]

    def of_positions(self, positions: Ints, folds: Ints | None) -> tuple[Floats, Floats]:
        """Return the same of positions, whatever stood there."""
        position_Q, group_Y = np.unique(self.keys_Y // max(len(self.items), 1), return_inverse=True)
        place = np.minimum(np.searchsorted(position_Q, positions), max(len(position_Q) - 1, 0))
        sums = []
        for values_YF in (self.shown_YF, self.reward_YF):
            # one group more, which is empty, for positions where nothing stood
            values_QF = _by_group(group_Y, values_YF, len(position_Q) + 1)
            known = np.where(np.append(position_Q, -1)[place] == positions, place, len(position_Q))
            sums.append(_but(values_QF, known, folds))
        return sums[0], sums[1]


def _by_group(group_Y: Ints, values_YF: Floats, groups: int) -> Floats:
    sums = [np.bincount(group_Y, values_Y, minlength=groups) for values_Y in values_YF.T]
    return np.stack(sums, axis=1).astype(np.float64)


def _summed(keys_X: Ints, weights_X: Floats, pairs: int, folds: int) -> Floats:
    sums_Z = np.bincount(keys_X, weights_X, minlength=pairs * folds)
    return sums_Z.astype(np.float64).reshape(pairs, folds)


def _but(values_YF: Floats, place: Ints, folds: Ints | None) -> Floats:
    total: Floats = values_YF.sum(axis=1)[place]
    return total if folds is None else total - values_YF[place, np.broadcast_to(folds, place.shape)]


def estimated_propensities(sums: PlacedSums, batch: LoggedBatch, smoothing: float = 1.0) -> Floats:
    """Return how often each shown item stands at its position, of the users of other folds, `[R, P]`.

    `(shows of the item there + smoothing) / (shows there + smoothing * items)`: chances that depend on nothing else.
    For logs without propensities only.

    Args:
        sums: Of the log.
        batch: Pages of it.
        smoothing: Shows added to each item.
    """
    folds_R1 = fold_of(batch.users_R, sums.folds)[:, None]
    number_V = sums.numbers(batch.items)
    number_RP = np.where(batch.there_RP, number_V[batch.shown_RP], NOBODY)
    shown_RP, _ = sums.elsewhere(batch.positions_RP, number_RP, folds_R1)
    there_RP, _ = sums.of_positions(batch.positions_RP, folds_R1)
    chance_RP = (shown_RP + smoothing) / (there_RP + smoothing * len(sums.items))
    return np.where(batch.there_RP, chance_RP, 1.0)
