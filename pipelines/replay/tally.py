"""Sums over logged pages by bucket of users: all that values and their intervals need, in one pass and little memory.

Legend: `R` logged pages, `P` slots, `G` buckets of users, `V` the two policies (champion,
challenger), `C` terms.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.replay.config import ReplayConfig
from pipelines.replay.distinct import DistinctUsers, bucket_of
from pipelines.replay.estimators import standard_estimators
from pipelines.replay.estimators.interface import Estimator
from pipelines.replay.estimators.terms import Term, terms_of
from pipelines.replay.estimators.weights import Shrink
from pipelines.replay.rounds import Floats, Ints, Rounds

_ROUNDING = 1e-9
"""A sum of probabilities may exceed 1 by so much."""
_BLOCK = 1 << 15
"""Slots at a time: few enough that their arrays stay in the processor's cache."""


@dataclasses.dataclass
class Tally:
    """Sums by bucket of users; adding pages and merging are in place and return it.

    Users are hashed into buckets, so buckets are independent of each other, and the sums are the same for every
    order, chunking and merging up to rounding (1e-12 of the sums of absolute values). Memory depends on buckets
    and terms alone, but for the distinct users (`pipelines.replay.distinct`).

    Attributes:
        slots: Those of the longest page that may come.
        terms: What is summed.
        sums_VCG: Each term of `terms`, per policy and bucket.
        pages_G: Logged pages.
        items_GP: Shown items by slot.
        largest_4: The largest absolute reward of a page, mistake of the reward model about a page, reward of an item,
            and mistake about an item: what bounds of bias are made of.
        users: Distinct users.
    """

    slots: int
    terms: tuple[Term, ...]
    sums_VCG: Floats
    pages_G: Ints
    items_GP: Ints
    largest_4: Floats
    users: DistinctUsers

    @classmethod
    def empty(cls, config: ReplayConfig, slots: int) -> Tally:
        """Return a tally of no page, for pages of at most so many slots."""
        if slots < 1:
            raise ValueError(f"slots: expected at least 1, got {slots}")
        return cls.of(standard_estimators(slots), buckets=config.buckets, slots=slots)

    @classmethod
    def of(cls, estimators: Sequence[Estimator], *, buckets: int, slots: int) -> Tally:
        """Return a tally of no page for these estimators."""
        terms = terms_needed(estimators, slots)
        return cls(
            slots=slots,
            terms=terms,
            sums_VCG=np.zeros((2, len(terms), buckets)),
            pages_G=np.zeros(buckets, dtype=np.int64),
            items_GP=np.zeros((buckets, slots), dtype=np.int64),
            largest_4=np.zeros(4),
            users=DistinctUsers(),
        )

    def add(self, rounds: Rounds) -> Tally:
        """Add logged pages.

        Raises:
            ValueError: A page has more slots than expected, or a logging probability is not in (0, 1].
        """
        if rounds.there_RP.shape[1] > self.slots:
            raise ValueError(f"pages: expected at most {self.slots} slots, got {rounds.there_RP.shape[1]}")
        pages = max(_BLOCK // max(rounds.there_RP.shape[1], 1), 1)
        for start in range(0, len(rounds), pages):
            self._add_block(rounds.take(slice(start, start + pages)))
        self.users.add(rounds.users_R)
        return self

    def merge(self, other: Tally) -> Tally:
        """Add the pages of another tally.

        Raises:
            ValueError: It has other buckets or terms.
        """
        if self.sums_VCG.shape != other.sums_VCG.shape or self.terms != other.terms:
            shapes = f"{self.sums_VCG.shape} and {other.sums_VCG.shape}"
            raise ValueError(f"tallies: expected the same buckets and estimators, got sums of shapes {shapes}")
        self.sums_VCG += other.sums_VCG
        self.pages_G += other.pages_G
        self.items_GP += other.items_GP
        np.maximum(self.largest_4, other.largest_4, out=self.largest_4)
        self.users.merge(other.users)
        return self

    def to_bytes(self) -> bytes:
        """Return everything in a portable form, without the buckets that hold no page."""
        present = np.flatnonzero(self.pages_G)
        header = {
            "slots": self.slots,
            "buckets": len(self.pages_G),
            "terms": [dataclasses.asdict(term) for term in self.terms],
            "capacity": self.users.capacity,
            "level": self.users.level,
        }
        content = io.BytesIO()
        np.savez(
            content,
            header=np.frombuffer(json.dumps(header).encode(), dtype=np.uint8),
            present=present,
            sums=self.sums_VCG[:, :, present],
            pages=self.pages_G[present],
            items=self.items_GP[present],
            largest=self.largest_4,
            users=self.users.users,
        )
        return content.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Tally:
        """Return the tally that `to_bytes` wrote."""
        with np.load(io.BytesIO(content)) as arrays:
            header = json.loads(arrays["header"].tobytes())
            terms = tuple(_term(**fields) for fields in header["terms"])
            tally = cls(
                slots=header["slots"],
                terms=terms,
                sums_VCG=np.zeros((2, len(terms), header["buckets"])),
                pages_G=np.zeros(header["buckets"], dtype=np.int64),
                items_GP=np.zeros((header["buckets"], header["slots"]), dtype=np.int64),
                largest_4=arrays["largest"],
                users=DistinctUsers(capacity=header["capacity"], level=header["level"], users=arrays["users"]),
            )
            present = arrays["present"]
            tally.sums_VCG[:, :, present] = arrays["sums"]
            tally.pages_G[present] = arrays["pages"]
            tally.items_GP[present] = arrays["items"]
        return tally

    def __reduce__(self) -> tuple[Any, tuple[bytes]]:
        return Tally.from_bytes, (self.to_bytes(),)

    def _add_block(self, rounds: Rounds) -> None:
        check_logged(rounds)
        buckets = len(self.pages_G)
        bucket_R = bucket_of(rounds.users_R, buckets)
        for policy, target in enumerate((rounds.champion, rounds.challenger)):
            terms_CR = terms_of(rounds, target, self.terms)
            self._check_finite(terms_CR)
            for sums_G, term_R in zip(self.sums_VCG[policy], terms_CR, strict=True):
                sums_G += np.bincount(bucket_R, weights=term_R, minlength=buckets)
        self.pages_G += np.bincount(bucket_R, minlength=buckets)
        for slot, there_R in enumerate(rounds.there_RP.T):
            self.items_GP[:, slot] += np.bincount(bucket_R[there_R], minlength=buckets)
        residual_RP = rounds.rewards_RP - rounds.predicted_RP
        largest = [np.abs(array.sum(axis=1)).max() for array in (rounds.rewards_RP, residual_RP)]
        largest += [np.abs(array).max() for array in (rounds.rewards_RP, residual_RP)]
        np.maximum(self.largest_4, largest, out=self.largest_4)

    def _check_finite(self, terms_CR: Floats) -> None:
        """Raise ValueError where a term is not finite, but for pseudo-inverse weights: nan where not asked for."""
        for column in np.flatnonzero(~np.isfinite(terms_CR.sum(axis=1))):
            term = self.terms[column]
            if term.weights != "pseudo_inverse":
                raise ValueError(
                    f"pages: expected finite rewards, predictions and chances, got a sum of {term.measure} with "
                    f"{term.weights} weights that is not"
                )


def terms_needed(estimators: Sequence[Estimator], slots: int) -> tuple[Term, ...]:
    """Return the terms of all formulas, each once."""
    terms: dict[Term, None] = {}
    for estimator in estimators:
        for parameter in estimator.grid or (None,):
            terms.update(dict.fromkeys(estimator.formula(slots, parameter).terms))
    return tuple(terms)


def check_logged(rounds: Rounds) -> None:
    """Raise ValueError unless all logging probabilities are more than 0 and at most 1.

    Pages that fail are to be counted and left out before: an estimate without them would be of other pages.
    """
    chances = rounds.logged
    for name in ("conditional_RP", "marginal_RP", "cluster_RP"):
        chance_RP = getattr(chances, name)
        wrong = np.argwhere(~((chance_RP > 0) & (chance_RP <= 1 + _ROUNDING)))
        if len(wrong):
            page, slot = wrong[0]
            raise ValueError(
                f"logged.{name}: expected probabilities in (0, 1], got {chance_RP[page, slot]} at slot {slot} of page "
                f"{page} and {len(wrong) - 1} more; leave such pages out"
            )


def _term(shrink: dict[str, Any] | None, **fields: Any) -> Term:
    return Term(shrink=None if shrink is None else Shrink(**shrink), **fields)
