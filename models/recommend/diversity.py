"""How alike items are, as the policy's diversity and the later pages of a list need it.

Two items are as alike as their semantic IDs have a common beginning, `shared levels / L`: every catalogue knows it of
every item, new ones included. Maximal marginal relevance (Carbonell & Goldstein, SIGIR 1998) fills each slot by
`lambda score(item) - (1 - lambda) max similarity(item, what the page holds)`. Here that is divided by lambda, which
orders alike and leaves the unit of the score, and so the meaning of a temperature, as it is:
`score - weight x max similarity`, `weight = (1 - lambda) / lambda`.
Legend: `B` requests, `F` candidates, `L` levels, `S` items shown.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from features.semantic_ids import Catalogue
from models.recommend.fusion import Fused, reordered
from models.recommend.interface import NO_ITEM

DIVERSITY = "diversity"
"""Name of what earlier pages of a list take off a score, among its parts."""

FloatArray = npt.NDArray[np.float64]
Codes = npt.NDArray[np.integer]


def weight_of(diversity: float) -> float:
    """Return the worth of a similarity of 1 in units of the score, `(1 - lambda) / lambda`.

    Args:
        diversity: `1 - lambda`, at least 0 and less than 1.

    Example:
        >>> weight_of(0.5), weight_of(0)
        (1.0, 0.0)
    """
    return diversity / (1 - diversity)


def similarity(codes_XL: Codes, others_XL: Codes) -> FloatArray:
    """Return the share of levels that each pair of semantic IDs has in common from the first on, 0 to 1.

    Args:
        codes_XL: Codes, any shape that ends with the levels.
        others_XL: As many, or a shape that broadcasts.

    Example:
        >>> similarity(np.array([[4, 1, 2], [4, 7, 0], [5, 1, 0]]), np.array([4, 1, 0])).round(2).tolist()
        [0.67, 0.33, 0.0]
    """
    levels = codes_XL.shape[-1]
    alike_X: npt.NDArray[np.bool_] = codes_XL[..., 0] == others_XL[..., 0]
    shared_X: FloatArray = alike_X.astype(np.float64)
    for level in range(1, levels):
        alike_X = alike_X & (codes_XL[..., level] == others_XL[..., level])
        shared_X += alike_X
    return shared_X / levels


def apart_from_shown(fused: Fused, catalogue: Catalogue, shown: Sequence[Sequence[str]], weight: float) -> Fused:
    """Return candidates less what their likeness to an earlier page's items costs, with the part `diversity`.

    The cost is part of the score of this page's candidates, so that the page can be judged by them alone.

    Args:
        fused: Candidates of `B` requests.
        catalogue: Their items.
        shown: Per request, ids of what earlier pages showed.
        weight: Of a similarity of 1 (`weight_of`).
    """
    near_BF = np.stack([_nearest(catalogue, items_F, ids) for items_F, ids in zip(fused.items_BF, shown, strict=True)])
    part_BF1 = (-weight * near_BF * (fused.items_BF != NO_ITEM)).astype(np.float32)[..., None]
    return reordered(fused, np.concatenate([fused.parts_BFR, part_BF1], axis=2), (*fused.sources, DIVERSITY))


def _nearest(catalogue: Catalogue, items_F: npt.NDArray[np.int64], shown: Sequence[str]) -> FloatArray:
    """Return the similarity of each item to the one of the shown that is most like it, `[F]`; 0 where none is shown."""
    numbers = catalogue.numbers(shown)
    place_S = np.unique(catalogue.sid_of_item_N[numbers[numbers != NO_ITEM]])
    if not len(place_S):
        return np.zeros(len(items_F))
    # semantic IDs are sorted: none has a longer beginning in common than the next one before or behind
    behind_F = np.searchsorted(place_S, catalogue.sid_of_item_N[items_F])
    sides = (place_S[np.maximum(behind_F - 1, 0)], place_S[np.minimum(behind_F, len(place_S) - 1)])
    before_F, after_F = (similarity(catalogue.codes_NL[items_F], catalogue.sids_SL[side_F]) for side_F in sides)
    return np.maximum(before_F, after_F)
