"""Weights of the pseudo-inverse estimator: pages whose reward is a sum over pairs of position and item.

With 1(s) the indicator of the page's pairs, `weight = E_target[1]^T (E_logged[1 1^T])^+ 1(s)` (Swaminathan et al. 2017,
arXiv 1605.04812, eq. 3).
Legend: `R` pages, `D` pages that a policy may make of each, `P` slots, `K` columns, `Z = P K` pairs.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt

from models.recommend.policy import NO_CHOICE
from pipelines.replay.choosers import Chooser
from pipelines.replay.marginals import drawn_pages, page_chances
from pipelines.replay.rounds import Floats, Ints

PSEUDO_INVERSE = "pi"
"""Name of the estimator, which asks for these weights."""
MOST_PAIRS = 400
"""More pairs of position and column are refused: the matrix has their square, and would have to be known."""
_MOST_WAYS = 2_000
"""So many ways to fill a page are looked at one by one."""
_DRAWS_PER_PAIR = 20


def fits(slots: int, columns: int) -> bool:
    """Return whether pages are small enough.

    Example:
        >>> fits(10, 40), fits(10, 41)
        (True, False)
    """
    return slots * columns <= MOST_PAIRS


def pseudo_inverse_weights(
    logger: Chooser, target: Chooser, choice_RP: Ints, columns: int, seeds_R: npt.NDArray[np.uint64]
) -> Floats:
    """Return the weight of each logged page.

    Args:
        logger: Who made the pages.
        target: Who is judged.
        choice_RP: Columns shown, `NO_CHOICE` for none.
        columns: Columns there are.
        seeds_R: What decides draws, of pages that can be filled in too many ways.

    Raises:
        ValueError: There are more than `MOST_PAIRS` pairs.
    """
    slots = choice_RP.shape[1]
    if not fits(slots, columns):
        raise ValueError(
            f"pseudo-inverse: expected at most {MOST_PAIRS} pairs of position and item, got {slots} x {columns}"
        )
    weights_R = np.empty(len(choice_RP))
    for row in range(len(choice_RP)):
        alone = np.array([row])
        of_logger_DZ, chance_D = _pages(logger.take(alone), slots, columns, seeds_R[alone])
        of_target_DZ, target_D = _pages(target.take(alone), slots, columns, ~seeds_R[alone])
        matrix_ZZ = (of_logger_DZ * chance_D[:, None]).T @ of_logger_DZ
        shown_Z = _indicators(choice_RP[alone], columns)[0]
        weights_R[row] = (target_D @ of_target_DZ) @ np.linalg.pinv(matrix_ZZ, rcond=1e-9, hermitian=True) @ shown_Z
    return weights_R


def _pages(chooser: Chooser, slots: int, columns: int, seeds_R: npt.NDArray[np.uint64]) -> tuple[Floats, Floats]:
    """Return the pairs of pages that a policy may make of one request, and the probability of each."""
    if math.perm(columns, min(slots, columns)) <= _MOST_WAYS:
        ways_DP = np.full((math.perm(columns, min(slots, columns)), slots), NO_CHOICE)
        ways_DP[:, : min(slots, columns)] = list(itertools.permutations(range(columns), min(slots, columns)))
        return _indicators(ways_DP, columns), page_chances(chooser.take(np.zeros(len(ways_DP), np.int64)), ways_DP)
    draws = _DRAWS_PER_PAIR * slots * columns
    return _indicators(drawn_pages(chooser, seeds_R, slots, draws)[0], columns), np.full(draws, 1.0 / draws)


def _indicators(choice_DP: Ints, columns: int) -> Floats:
    row, slot = np.nonzero(choice_DP != NO_CHOICE)
    indicator_DPK = np.zeros((*choice_DP.shape, columns))
    indicator_DPK[row, slot, choice_DP[row, slot]] = 1.0
    return indicator_DPK.reshape(len(choice_DP), -1)
