"""Whatever fills pages slot by slot, with known probabilities: a release's last stage, or a table of probabilities.

Legend: `R` pages, `P` slots, `K` columns of a page (`pipelines.replay.logged.Grid`), `G` caps, `L` levels of codes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from models.recommend.policy import NO_CHOICE, Policy
from pipelines.replay.rounds import Bools, Floats, Ints


class Chooser(Protocol):
    """What a policy would put on pages."""

    def along(self, choice_RP: Ints) -> Iterator[Floats]:
        """Yield, slot by slot, the distribution of the slot's item given the slots before, `[R, K]`.

        Args:
            choice_RP: Columns placed, `NO_CHOICE` for none. A slot's is looked at after its distribution was yielded,
                so that whoever draws fills it in between.
        """
        ...

    def take(self, rows: npt.NDArray[np.integer] | slice) -> Chooser:
        """Return what it makes of some of the pages, or of pages repeated."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Opinion:
    """Final scores of the columns, and the last stage that draws from them: the code that serves.

    Attributes:
        policy: The last stage.
        scores_RK: Finite where eligible.
        eligible_RK: Columns that it may show at all.
        groups_RKG, codes_RKL: See `Policy.draw`; None where the policy does not need them.
    """

    policy: Policy
    scores_RK: Floats
    eligible_RK: Bools
    groups_RKG: npt.NDArray[np.int64] | None = None
    codes_RKL: npt.NDArray[np.int32] | None = None

    def along(self, choice_RP: Ints) -> Iterator[Floats]:
        """See `Chooser.along`."""
        return self.policy.along(self.scores_RK, self.eligible_RK, choice_RP, self.groups_RKG, self.codes_RKL)

    def take(self, rows: npt.NDArray[np.integer] | slice) -> Opinion:
        """See `Chooser.take`."""
        return dataclasses.replace(
            self,
            scores_RK=self.scores_RK[rows],
            eligible_RK=self.eligible_RK[rows],
            groups_RKG=None if self.groups_RKG is None else self.groups_RKG[rows],
            codes_RKL=None if self.codes_RKL is None else self.codes_RKL[rows],
        )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Tabled:
    """Probabilities by slot; what is placed already falls out, and the rest is renormalised.

    Attributes:
        weights_RPK: At least 0; a slot without any weight stays empty.
    """

    weights_RPK: Floats

    def along(self, choice_RP: Ints) -> Iterator[Floats]:
        """See `Chooser.along`."""
        left_RK = np.ones((len(self.weights_RPK), self.weights_RPK.shape[2]))
        for slot in range(choice_RP.shape[1]):
            weight_RK = self.weights_RPK[:, slot] * left_RK
            yield weight_RK / np.maximum(weight_RK.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
            rows = np.flatnonzero(choice_RP[:, slot] != NO_CHOICE)
            left_RK[rows, choice_RP[rows, slot]] = 0.0

    def take(self, rows: npt.NDArray[np.integer] | slice) -> Tabled:
        """See `Chooser.take`."""
        return Tabled(weights_RPK=self.weights_RPK[rows])
