"""Counts for the calibration of logged propensities, from pages of a log.

Legend: `R` pages, `P` slots, `K` columns of a page, `C` bins of probabilities.
"""

from __future__ import annotations

import numpy as np

from kernels.hashing import hash_strings
from models.recommend.policy import NO_CHOICE
from pipelines.replay.calibration import Calibration, bin_masses
from pipelines.replay.choosers import Chooser
from pipelines.replay.logged import LoggedBatch
from pipelines.replay.rounds import Ints

MOST_POSITIONS = 100
"""What stood further down is not counted: too little is shown there to tell anything."""


def count_shown(counts: Calibration, batch: LoggedBatch, logger: Chooser | None, choice_RP: Ints) -> None:
    """Count what a log shows: by size of recomputed probability where it can be recomputed, else by item.

    By item, only pages of one item that name no candidates are counted: there every item could have been shown.

    Args:
        counts: Where to.
        batch: Pages with propensities.
        logger: The logging policy, as it follows from the log; None where the log does not tell.
        choice_RP: Columns of the shown items.
    """
    if logger is not None:
        shown_RP, masses = np.zeros(choice_RP.shape), []
        for slot, chance_RK in enumerate(logger.along(choice_RP)):
            columns_R1 = np.maximum(choice_RP[:, slot : slot + 1], 0)
            shown_RP[:, slot] = np.take_along_axis(chance_RK, columns_R1, axis=1)[:, 0]
            masses.append(bin_masses(chance_RK[:, None]))
        counts.bins.add(shown_RP, np.concatenate(masses, axis=1), choice_RP != NO_CHOICE)
        return
    propensity_RP = batch.propensities_RP
    alone_R = (batch.there_RP.sum(axis=1) == 1) & ~batch.named_R
    counted_RP = batch.there_RP & alone_R[:, None] & (propensity_RP > 0) & (propensity_RP <= 1)
    counted_RP &= batch.positions_RP < MOST_POSITIONS
    items_X = hash_strings(batch.items)[batch.shown_RP[counted_RP]]
    counts.items.add(items_X, batch.positions_RP[counted_RP], propensity_RP[counted_RP])
