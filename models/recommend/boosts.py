"""Boosts: what the operator wants to see more or less of, as a last word on the score before the policy.

`score' = score x product of the factors + sum of the addends` of all boosts whose conditions an item fulfils, in
whatever order they are set. Boosts move candidates; they propose none.
Legend: `N` items of the catalogue, `B` requests, `F` fused candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from models.recommend.boosts_config import Boost
from models.recommend.eligibility import BoolArray, Ints
from models.recommend.fusion import Fused, reordered
from models.recommend.interface import NO_ITEM
from models.recommend.rules import CatalogueFacts

BOOST = "boost"
"""Name of what boosts add to or take off a score, among its parts."""
_DAY_MS = 86_400_000

Floats = npt.NDArray[np.float32]


class Boosts:
    """Boosts worked out for all items of a catalogue.

    Args:
        boosts: Any number.
        facts: Of the items.
    """

    def __init__(self, boosts: Sequence[Boost], facts: CatalogueFacts) -> None:
        self._factor_N = np.ones(len(facts), dtype=np.float32)
        self._addend_N = np.zeros(len(facts), dtype=np.float32)
        self._available_from_N = facts.available_from_N
        self._while_new: list[tuple[Boost, float, BoolArray]] = []
        for boost in boosts:
            inside_N = items_of(boost, facts)
            if boost.new_days is not None:
                self._while_new.append((boost, boost.new_days * _DAY_MS, inside_N))
            elif boost.factor is not None:
                self._factor_N[inside_N] *= np.float32(boost.factor)
            else:
                self._addend_N[inside_N] += np.float32(boost.addend)

    def __call__(self, fused: Fused, times_B: Ints) -> Fused:
        """Return candidates in the order of their boosted scores, with the part `boost`; equal ones keep theirs.

        Args:
            fused: Candidates of `B` requests.
            times_B: Milliseconds since 1970 UTC: what is new depends on them.
        """
        factor_BF, addend_BF = self._factor_N[fused.items_BF], self._addend_N[fused.items_BF]
        if self._while_new:
            # unsigned, so that the oldest possible moment leads to a large age instead of an overflow
            from_BF = self._available_from_N[fused.items_BF]
            age_BF = times_B[:, None].astype(np.uint64) - from_BF.astype(np.uint64)
            for boost, longest, inside_N in self._while_new:
                now_BF = inside_N[fused.items_BF] & (age_BF < longest)
                if boost.factor is not None:
                    factor_BF[now_BF] *= np.float32(boost.factor)
                else:
                    addend_BF[now_BF] += np.float32(boost.addend)
        part_BF = fused.scores_BF * factor_BF + addend_BF - fused.scores_BF
        part_BF1 = np.where(fused.items_BF == NO_ITEM, np.float32(0), part_BF)[..., None]
        return reordered(fused, np.concatenate([fused.parts_BFR, part_BF1], axis=2), (*fused.sources, BOOST))


def items_of(boost: Boost, facts: CatalogueFacts) -> BoolArray:
    """Return the items that fulfil a boost's conditions, whatever the moment is, shape `[N]`."""
    inside_N = np.ones(len(facts), dtype=bool)
    if boost.category is not None:
        inside_N &= facts.in_category(boost.category)
    if boost.brand is not None:
        inside_N &= facts.of_brand(boost.brand)
    if boost.items is not None:
        wanted = pa.array(sorted(boost.items), pa.string())
        inside_N &= pc.is_in(facts.table["item_id"], value_set=wanted).to_numpy(zero_copy_only=False)
    if boost.attribute is not None:
        name, _, value = boost.attribute.partition("=")
        values = pc.map_lookup(facts.table["attributes"].combine_chunks(), pa.scalar(name), "first")
        inside_N &= pc.fill_null(pc.equal(values, value), False).to_numpy(zero_copy_only=False)
    return inside_N
