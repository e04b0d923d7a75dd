"""Pages to align on, as batches: prompts, what the user liked there, and what the reward model needs to know.

Legend: `B` pages of a batch, `Q` pages aligned on, `P` positives of a page, `M` of a batch, `C`
candidates of an item head, `N` items, `L` levels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from features.semantic_ids import Catalogue
from kernels.jagged import columns, row_numbers
from models.genrec.batch import Floats, PackedBatch, pack_prompts
from models.genrec.config import GenRecConfig
from models.genrec.data import draw_candidates
from models.recommend.interface import NO_ITEM, RequestBatch
from models.recommend.requests import EvaluationCases

Ints = npt.NDArray[np.int64]
_DRAWS = 11
"""Names the stream of draws from the policy, apart from those of `models.training.streams`; one per step."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlignmentBatch:
    """Pages of one step.

    Attributes:
        requests: `B` requests at the moments of the pages, with what the reward model reads.
        prompts: The same as GenRec reads them.
        positives, positive_offsets: Items of each page with a click or more (D+), distinct, jagged.
        taught_BP: Some of these, at most as many as a page has slots: those whose likelihood is taught; `NO_ITEM` after
            the last.
        candidates_C: The items that an item head tells apart; none without one.
        taught_candidate_M: The candidate that each taught positive is, row by row; empty without candidates.
        seed: Of what the policy draws.
    """

    requests: RequestBatch
    prompts: PackedBatch
    positives: Ints
    positive_offsets: Ints
    taught_BP: Ints
    candidates_C: Ints
    taught_candidate_M: Ints
    seed: int

    @property
    def size(self) -> int:
        """Number of pages."""
        return len(self.requests)


def make_batch(
    cases: EvaluationCases,
    catalogue: Catalogue,
    config: GenRecConfig,
    user_vectors_BU: Floats | None,
    rng: np.random.Generator,
) -> AlignmentBatch:
    """Return these pages as a batch.

    Args:
        cases: `B` pages.
        catalogue: Semantic IDs.
        config: Shape of the prompts; its `page_items` limits how many positives of a page are taught.
        user_vectors_BU: For a model with `user_prefix`.
        rng: Chooses among more positives than that, and an item head's candidates.
    """
    taught_BP = _some(cases.relevant_items, cases.relevant_offsets, config.page_items, rng)
    candidates_C, taught_candidate_M = draw_candidates(taught_BP[taught_BP != NO_ITEM], catalogue, config, rng)
    return AlignmentBatch(
        requests=cases.requests,
        prompts=pack_prompts(cases.requests, catalogue, config, user_vectors_BU),
        positives=cases.relevant_items,
        positive_offsets=cases.relevant_offsets,
        taught_BP=taught_BP,
        candidates_C=candidates_C,
        taught_candidate_M=taught_candidate_M,
        seed=int(rng.integers(2**63)),
    )


def _some(items: Ints, offsets: Ints, most: int, rng: np.random.Generator) -> Ints:
    """Return at most `most` items of each row, drawn evenly, `[B, P]`."""
    lengths_B = np.diff(offsets)
    rows = row_numbers(lengths_B)
    order = np.lexsort((rng.random(len(items)), rows))
    places = columns(lengths_B)
    kept = places < most
    some_BP = np.full((len(lengths_B), min(int(lengths_B.max()), most)), NO_ITEM, dtype=np.int64)
    some_BP[rows[kept], places[kept]] = items[order][kept]
    return some_BP


class PromptSource:
    """Deals pages to steps, pass after pass in a new order; what the training loop calls an epoch is one period of it.

    Args:
        cases: `Q` pages.
        catalogue: Semantic IDs.
        config: Shape of the prompts.
        pages_per_step: Pages of a batch; fewer where there are not so many.
        period: Steps between two evaluations.
        seed: Of order and draws.
        user_vectors_QU: For a model with `user_prefix`.
    """

    def __init__(
        self,
        cases: EvaluationCases,
        catalogue: Catalogue,
        config: GenRecConfig,
        *,
        pages_per_step: int,
        period: int,
        seed: int,
        user_vectors_QU: Floats | None = None,
    ) -> None:
        self.cases, self.catalogue, self.config, self.seed = cases, catalogue, config, seed
        self.pages_per_step = min(pages_per_step, len(cases))
        self.steps_per_epoch = period
        self.user_vectors_QU = user_vectors_QU

    def iterate(self, epoch: int, start_step: int) -> Iterator[AlignmentBatch]:
        """Yield the batches of a period from `start_step` on."""
        for step in range(start_step, self.steps_per_epoch):
            yield self.batch(epoch * self.steps_per_epoch + step)

    def batch(self, step: int) -> AlignmentBatch:
        """Return the batch of a step of the run."""
        rows = self._rows(step)
        vectors = None if self.user_vectors_QU is None else self.user_vectors_QU[rows]
        rng = np.random.default_rng([self.seed, _DRAWS, step])
        return make_batch(self.cases.take(rows), self.catalogue, self.config, vectors, rng)

    def _rows(self, step: int) -> Ints:
        places = np.arange(step * self.pages_per_step, (step + 1) * self.pages_per_step)
        passes, within = np.divmod(places, len(self.cases))
        orders = {number: self._order(number) for number in np.unique(passes).tolist()}
        return np.array([orders[number][place] for number, place in zip(passes.tolist(), within, strict=True)])

    def _order(self, number: int) -> Ints:
        return np.random.default_rng([self.seed, number]).permutation(len(self.cases))
