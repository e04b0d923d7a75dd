"""The stochastic last stage: draws a page slot by slot and knows the probability of what it drew.

Legend: `B` requests, `R` some of them, `K` candidates, `P` slots of the page, `G` caps, `L` levels of semantic IDs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from kernels.hashing import combine_hashes, hash_integers
from models.recommend.diversity import Codes, similarity, weight_of

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

NO_CHOICE = -1
"""A slot for which no eligible candidate was left."""
NO_GROUP = -1
"""A candidate that a cap does not count: an item without a brand."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Policy:
    """Draws each slot with probability `(1 - epsilon) softmax(score / temperature) + epsilon / eligible`.

    Softmax and uniform part run over the candidates that are still eligible at the slot: a placed item is masked for
    the slots after it, and so are items of a brand or category of which the page holds as many as it may; nothing is
    repaired later. Temperature 0 stands for the limit: all of the softmax's mass on the best candidate (the first of
    equals). With `epsilon = temperature = 0` the policy is deterministic.

    With diversity, the score at a slot is the candidate's less a cost of its likeness to what the page holds already:
    maximal marginal relevance (`models.recommend.diversity`) inside the draw, so that probabilities stay exact.

    Attributes:
        epsilon: Share of uniform exploration, 0 to 1.
        temperature: >= 0, in units of the score.
        caps: Name and largest number on one page of every kind of group that is capped.
        diversity: `1 - lambda` of maximal marginal relevance, at least 0 and less than 1.
    """

    epsilon: float
    temperature: float
    caps: tuple[tuple[str, int], ...] = ()
    diversity: float = 0.0

    def __post_init__(self) -> None:
        mistakes = []
        if not 0 <= self.epsilon <= 1:
            mistakes.append(f"epsilon: expected 0 to 1, got {self.epsilon}")
        if not 0 <= self.temperature < math.inf:
            mistakes.append(f"temperature: expected a finite number >= 0, got {self.temperature}")
        mistakes += [f"{name}: expected at least 1 per page, got {most}" for name, most in self.caps if most < 1]
        if not 0 <= self.diversity < 1:
            mistakes.append(f"diversity: expected at least 0 and less than 1, got {self.diversity}")
        if mistakes:
            raise ValueError("; ".join(mistakes))

    @property
    def name(self) -> str:
        """Its parameters, as logged with every page."""
        caps = "".join(f",{name}<={most}" for name, most in self.caps)
        diversity = f",diversity={self.diversity:g}" if self.diversity else ""
        return f"epsilon={self.epsilon:g},temperature={self.temperature:g}{caps}{diversity}"

    def probabilities(self, scores_BK: npt.NDArray[np.floating], eligible_BK: BoolArray) -> FloatArray:
        """Return the distribution of one draw, shape `[B, K]`; rows sum to 1, or to 0 where nothing is eligible.

        Example:
            >>> Policy(epsilon=0.5, temperature=0).probabilities(np.array([[2.0, 1.0]]), np.array([[True, True]]))
            array([[0.75, 0.25]])
        """
        scores_BK = np.where(eligible_BK, scores_BK, -np.inf).astype(np.float64)
        best_B1 = scores_BK.max(axis=1, keepdims=True, initial=-np.inf)
        if self.temperature == 0:
            weight_BK = np.zeros_like(scores_BK)
            weight_BK[np.arange(len(scores_BK)), scores_BK.argmax(axis=1)] = 1.0
            weight_BK *= eligible_BK
        else:
            shifted_BK = np.where(eligible_BK, scores_BK - np.where(np.isfinite(best_B1), best_B1, 0.0), -np.inf)
            weight_BK = np.exp(shifted_BK / self.temperature)
        total_B1 = np.maximum(weight_BK.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
        uniform_BK = eligible_BK / np.maximum(eligible_BK.sum(axis=1, keepdims=True), 1)
        return (1 - self.epsilon) * weight_BK / total_B1 + self.epsilon * uniform_BK

    def draw(
        self,
        scores_BK: npt.NDArray[np.floating],
        eligible_BK: BoolArray,
        uniform_BP: FloatArray,
        groups_BKG: IntArray | None = None,
        codes_BKL: Codes | None = None,
    ) -> tuple[IntArray, FloatArray]:
        """Draw pages without replacement.

        Args:
            scores_BK: Final scores, finite where eligible.
            eligible_BK: Candidates that may be shown at all.
            uniform_BP: What decides each draw: uniform numbers in [0, 1), one per slot (`uniform_numbers`).
            groups_BKG: The group that each candidate belongs to, per cap, `NO_GROUP` for none; needed with caps only.
            codes_BKL: The semantic ID of each candidate; needed with diversity only.

        Returns:
            Candidate columns `[B, P]`, `NO_CHOICE` where none was left, and the conditional probabilities
            `[B, P]`: P(item of slot p | scores, items before p), 1 where none was left.
        """
        pages = _Pages(self, scores_BK, eligible_BK, groups_BKG, codes_BKL)
        choice_BP = np.full(uniform_BP.shape, NO_CHOICE, dtype=np.int64)
        propensity_BP = np.ones(uniform_BP.shape)
        for slot in range(uniform_BP.shape[1]):
            rows = np.flatnonzero(pages.left_BK.any(axis=1))
            if not len(rows):
                break
            chance_RK = pages.chances(rows)
            chosen_R = _inverse_cdf(chance_RK, uniform_BP[rows, slot])
            choice_BP[rows, slot] = chosen_R
            propensity_BP[rows, slot] = chance_RK[np.arange(len(rows)), chosen_R]
            pages.place(rows, chosen_R)
        return choice_BP, propensity_BP

    def log_prob(
        self,
        scores_BK: npt.NDArray[np.floating],
        eligible_BK: BoolArray,
        choice_BP: IntArray,
        groups_BKG: IntArray | None = None,
        codes_BKL: Codes | None = None,
    ) -> FloatArray:
        """Return the log probability `[B, P]` with which this policy fills each slot of given pages.

        The log probability of a page is the sum over its slots. A slot this policy would never fill so is `-inf`;
        `NO_CHOICE` slots count 0. Arguments are those of `draw`.
        """
        log_BP = np.zeros(choice_BP.shape)
        for slot, chance_BK in enumerate(self.along(scores_BK, eligible_BK, choice_BP, groups_BKG, codes_BKL)):
            rows = np.flatnonzero(choice_BP[:, slot] != NO_CHOICE)
            with np.errstate(divide="ignore"):
                log_BP[rows, slot] = np.log(chance_BK[rows, choice_BP[rows, slot]])
        return log_BP

    def along(
        self,
        scores_BK: npt.NDArray[np.floating],
        eligible_BK: BoolArray,
        choice_BP: IntArray,
        groups_BKG: IntArray | None = None,
        codes_BKL: Codes | None = None,
    ) -> Iterator[FloatArray]:
        """Yield, slot by slot of given pages, the distribution of the draw given the slots before, `[B, K]`.

        Arguments are those of `log_prob`.
        """
        pages = _Pages(self, scores_BK, eligible_BK, groups_BKG, codes_BKL)
        for slot in range(choice_BP.shape[1]):
            yield pages.chances(np.arange(len(choice_BP)))
            rows = np.flatnonzero(choice_BP[:, slot] != NO_CHOICE)
            pages.place(rows, choice_BP[rows, slot])


class _Pages:
    """Pages that are being filled: what may follow, and how near every candidate is to what they hold."""

    def __init__(
        self,
        policy: Policy,
        scores_BK: npt.NDArray[np.floating],
        eligible_BK: BoolArray,
        groups_BKG: IntArray | None,
        codes_BKL: Codes | None,
    ) -> None:
        _check(policy, scores_BK, eligible_BK, groups_BKG, codes_BKL)
        self._policy, self._scores_BK = policy, scores_BK
        self._groups_BKG, self._codes_BKL = groups_BKG, codes_BKL
        self._weight = weight_of(policy.diversity)
        self._nearest_BK = np.zeros(scores_BK.shape) if policy.diversity else None
        self._on_page_BK = np.zeros(eligible_BK.shape, dtype=bool)
        self.left_BK = eligible_BK.copy()

    def chances(self, rows: IntArray) -> FloatArray:
        """Return the distribution of the next draw of these pages, `[R, K]`."""
        scores_RK = self._scores_BK[rows]
        if self._nearest_BK is not None:
            scores_RK = scores_RK - self._weight * self._nearest_BK[rows]
        return self._policy.probabilities(scores_RK, self.left_BK[rows])

    def place(self, rows: IntArray, chosen_R: IntArray) -> None:
        """Put a candidate on each of these pages: mask it, and groups that are full by it; note who is near to it."""
        self.left_BK[rows, chosen_R] = False
        self._on_page_BK[rows, chosen_R] = True
        for cap, (_, most) in enumerate(self._policy.caps):
            assert self._groups_BKG is not None, "checked"
            groups_RK = self._groups_BKG[rows, :, cap]
            group_R1 = self._groups_BKG[rows, chosen_R, cap][:, None]
            same_RK = (groups_RK == group_R1) & (group_R1 != NO_GROUP)
            full_R1 = (same_RK & self._on_page_BK[rows]).sum(axis=1, keepdims=True) >= most
            self.left_BK[rows] &= ~(same_RK & full_R1)
        if self._nearest_BK is not None:
            assert self._codes_BKL is not None, "checked"
            near_RK = similarity(self._codes_BKL[rows], self._codes_BKL[rows, chosen_R][:, None])
            self._nearest_BK[rows] = np.maximum(self._nearest_BK[rows], near_RK)


def _check(
    policy: Policy,
    scores_BK: npt.NDArray[np.floating],
    eligible_BK: BoolArray,
    groups_BKG: IntArray | None,
    codes_BKL: Codes | None,
) -> None:
    if scores_BK.shape != eligible_BK.shape or scores_BK.ndim != 2:
        raise ValueError(
            f"expected scores and eligible of one shape [B, K], got {scores_BK.shape} and {eligible_BK.shape}"
        )
    if not np.isfinite(scores_BK[eligible_BK]).all():
        raise ValueError("scores: expected finite numbers for eligible candidates, got infinite or nan ones")
    expected = (*scores_BK.shape, len(policy.caps))
    if policy.caps and (groups_BKG is None or groups_BKG.shape != expected):
        came = None if groups_BKG is None else groups_BKG.shape
        raise ValueError(f"groups: expected one per candidate and cap, shape {expected}, got {came}")
    if policy.diversity and (codes_BKL is None or codes_BKL.ndim != 3 or codes_BKL.shape[:2] != scores_BK.shape):
        came = None if codes_BKL is None else codes_BKL.shape
        raise ValueError(
            f"codes: expected the semantic ID of each candidate, shape [{scores_BK.shape[0]}, {scores_BK.shape[1]}, "
            f"levels], since diversity is {policy.diversity:g}, got {came}"
        )


def uniform_numbers(seeds_B: npt.NDArray[np.uint64], slots: int) -> FloatArray:
    """Return uniform numbers in [0, 1), `[B, P]`, that depend on a request's own seed and the slot only.

    A page is therefore the same whatever other requests were answered with it, and the first slots of a longer page are
    those of a shorter one.

    Args:
        seeds_B: One seed per request.
        slots: Number of slots `P`.

    Example:
        >>> uniform_numbers(np.array([7], dtype=np.uint64), 2).shape
        (1, 2)
    """
    size = len(seeds_B)
    slot_hashes = hash_integers(np.tile(np.arange(slots), size))
    hashes = combine_hashes(np.repeat(seeds_B, slots), slot_hashes)
    uniform_BP: FloatArray = (hashes >> np.uint64(11)).astype(np.float64).reshape(size, slots) * 2.0**-53
    return uniform_BP


def _inverse_cdf(chance_BK: FloatArray, uniform_B: FloatArray) -> IntArray:
    """Return the first column whose cumulated chance exceeds the uniform number."""
    cumulated_BK = chance_BK.cumsum(axis=1)
    column_B = (cumulated_BK <= uniform_B[:, None] * cumulated_BK[:, -1:]).sum(axis=1)
    last_possible_B = chance_BK.shape[1] - 1 - (chance_BK[:, ::-1] > 0).argmax(axis=1)
    return np.minimum(column_B, last_possible_B)  # rounding may carry the product up to the full sum
