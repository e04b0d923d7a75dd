"""Chooses how much to shrink weights.

Legend: `M` candidates, from the least bias and most variance to the most bias and least variance.
"""

from __future__ import annotations

import numpy as np

from pipelines.replay.rounds import Floats


def chosen(estimates_M: Floats, errors_M: Floats) -> int:
    """Return the candidate of the least estimated mean squared error, `(estimate - first estimate)^2 + se^2`.

    The first candidate, with weights as they are, has no bias, so its distance estimates a candidate's bias (Su et al.
    2020, arXiv 1907.09623, section 5: direct bias estimation). That the distance has noise, too, is not taken off: it
    makes the rule shy of shrinking, and what shrinking does to a difference is to hide it. SLOPE (Su et al. 2020, arXiv
    2002.07729; Tucker and Lee 2021) asks whether intervals meet as if they came from different logs. On simulated logs
    it clipped at 3 where this rule clips at 30, and ended three to ten standard errors from the truth.

    Args:
        estimates_M: What each candidate says.
        errors_M: Their standard errors.

    Example:
        >>> import numpy as np
        >>> chosen(np.array([1.0, 0.9, 0.1]), np.array([0.5, 0.2, 0.01]))
        1
    """
    return int(np.argmin(np.square(estimates_M - estimates_M[0]) + np.square(errors_M)))
