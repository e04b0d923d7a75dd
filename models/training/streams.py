"""Named streams of random numbers: one seed per run, from which each purpose draws apart from the others."""

from __future__ import annotations

import numpy as np

CASES, ORDER, FIRST_WEIGHTS, DROPOUT, SAMPLE = range(5)
"""Which validation cases are measured, the order of batches, first weights, what the model draws while it trains, which
training pages are used where not all are."""


def stream_seed(seed: int, stream: int) -> int:
    """Return the seed of a named stream.

    Example:
        >>> stream_seed(0, ORDER) != stream_seed(0, FIRST_WEIGHTS)
        True
    """
    return int(np.random.SeedSequence([seed, stream]).generate_state(1)[0])
