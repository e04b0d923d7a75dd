"""Chooses how much to shrink weights: as much as the data cannot tell from not shrinking.

Legend: `M` candidates, from the least bias and most variance to the most bias and least variance.
"""

from __future__ import annotations

import math

from pipelines.replay.rounds import Floats

_FACTOR = math.sqrt(6) - 1


def chosen(estimates_M: Floats, half_widths_M: Floats) -> int:
    """Return the candidate with the most bias that agrees with all before it.

    Candidate i agrees with j where `|estimate_i - estimate_j| <= width_i + (sqrt(6) - 1) width_j`: SLOPE (Su et al.
    2020, arXiv 2002.07729) with the sharper factor of SLOPE++ (Tucker and Lee 2021, Improved estimator selection for
    off-policy evaluation). Its error is then within a constant of the best candidate's.

    Args:
        estimates_M: What each candidate says.
        half_widths_M: Half-widths of their intervals.

    Example:
        >>> import numpy as np
        >>> chosen(np.array([1.0, 1.2, 0.1]), np.array([0.5, 0.2, 0.01]))
        1
    """
    for candidate in range(1, len(estimates_M)):
        for before in range(candidate):
            apart = abs(estimates_M[candidate] - estimates_M[before])
            if not apart <= half_widths_M[candidate] + _FACTOR * half_widths_M[before]:
                return candidate - 1
    return len(estimates_M) - 1
