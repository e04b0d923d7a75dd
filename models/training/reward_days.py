"""Which training pages a reward model learns from, and which are aligned on: never the same days.

Legend: `P` pages.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

DAY_MS = 86_400_000
CALIBRATION_SHARE = 0.15
"""Share of the reward model's pages, the newest, that choose and calibrate it instead of training it."""


class TooFewDaysError(ValueError):
    """The training pages cannot be parted into earlier and later ones."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardDays:
    """Three periods of the training pages, one after the other, parted by moments in milliseconds."""

    calibrated_from: int
    """Pages before it train the reward model; later ones choose its best weights and calibrate it."""
    aligned_from: int
    """Pages from here on are aligned on; the reward model knows none of them."""

    @classmethod
    def of(cls, times_P: npt.NDArray[np.int64], fraction: float) -> RewardDays:
        """Part pages by time.

        Periods end at midnight (UTC) wherever the pages of three days or more allow it, so that no day is in two.

        Args:
            times_P: The moments of all training pages.
            fraction: Share of the pages that the reward model gets.

        Raises:
            TooFewDaysError: The pages have fewer than three moments.

        Example:
            >>> days = RewardDays.of(np.arange(10) * DAY_MS + 3_600_000, 0.5)
            >>> days.calibrated_from // DAY_MS, days.aligned_from // DAY_MS
            (4, 5)
        """
        starts = np.unique(times_P // DAY_MS) * DAY_MS
        if len(starts) < 3:
            starts = np.unique(times_P)
        if len(starts) < 3:
            raise TooFewDaysError(
                f"alignment: expected training pages of three moments or more, to train a reward model on the earlier "
                f"ones, got {len(starts)}; align on a longer log"
            )
        share = np.searchsorted(np.sort(times_P), starts) / len(times_P)
        aligned = _nearest(share, fraction, 2, len(starts) - 1)
        calibrated = _nearest(share, fraction * (1 - CALIBRATION_SHARE), 1, aligned - 1)
        return cls(calibrated_from=int(starts[calibrated]), aligned_from=int(starts[aligned]))


def _nearest(share: npt.NDArray[np.floating], wanted: float, first: int, last: int) -> int:
    """Return which of the places `first` to `last` has a share nearest to the one wanted."""
    return first + int(np.abs(share[first : last + 1] - wanted).argmin())
