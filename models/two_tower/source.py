"""Training batches: examples in a new order every epoch, their negatives, and items for the self-supervised task.

Legend: `P` training pages, `E` examples (page, positive item), `N` items, `B` examples of a batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from kernels.jagged import offsets_from_lengths, row_numbers
from models.recommend.requests import EvaluationCases
from models.two_tower.bags import Bag, IntArray
from models.two_tower.config import TwoTowerConfig
from models.two_tower.inputs import ItemRows, TowerInputs, UserRows, positive_history, stacked
from models.two_tower.masking import draw_masks, mutual_information
from models.two_tower.towers import TowerBatch

_ORDER, _NEGATIVES, _SSL, _SAMPLE = range(4)
"""Named streams of random numbers: the self-supervised task draws from one of its own, so without it all else is the
same."""
INFORMATION_ITEMS = 20_000
"""Items, drawn evenly, on which mutual information is measured in larger catalogues."""
PRICE_STEPS = 10
"""Equally frequent ranges of a number that count as its values in mutual information."""


class TowerSource:
    """Deals examples to batches of `config.batch_size` per process; what is left of an epoch is in another's.

    Args:
        cases: Training pages with what their users did strictly before, and the positive items of each page.
        items: Inputs of the whole catalogue.
        config: Batches, negatives and the self-supervised task.
        seed: Of everything drawn.
        rank, world_size: This process's share of every batch.

    Raises:
        ValueError: There are fewer than two examples per process, or one item feature only but two are needed.
    """

    def __init__(
        self,
        cases: EvaluationCases,
        items: ItemRows,
        config: TwoTowerConfig,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.config, self.items, self.seed, self.rank, self.world_size = config, items, seed, rank, world_size
        self.users = UserRows(items.schema, cases.requests, items)
        self.positives = Bag(cases.relevant_items, cases.relevant_offsets)
        page_E = row_numbers(np.diff(cases.relevant_offsets))
        self.page_E, self.item_E = page_E, cases.relevant_items
        self.batch_size = min(config.batch_size, len(page_E) // world_size)
        if self.batch_size < 2:
            raise ValueError(
                f"expected at least 2 training examples per process, got {len(page_E)} for {world_size} processes; "
                "use fewer processes, or more data"
            )
        self.steps_per_epoch = len(page_E) // (self.batch_size * world_size)
        self.information_FF = self._information() if config.ssl_weight > 0 else None

    def iterate(self, epoch: int, start_step: int) -> Iterator[TowerBatch]:
        """Yield this process's batches of an epoch from `start_step` on."""
        order = np.random.default_rng([self.seed, _ORDER, epoch]).permutation(len(self.page_E))
        together = self.batch_size * self.world_size
        for step in range(start_step, self.steps_per_epoch):
            of_ranks = order[step * together : (step + 1) * together].reshape(self.world_size, self.batch_size)
            yield self._batch(of_ranks, epoch, step)

    def _batch(self, of_ranks: IntArray, epoch: int, step: int) -> TowerBatch:
        examples = of_ranks[self.rank]
        positives = self.item_E[examples]
        uniform = self._draw(_NEGATIVES, self.config.uniform_negatives, epoch, step)
        candidates = np.unique(np.concatenate([positives, uniform]))
        item = self.items.take(candidates)
        if self.information_FF is not None:
            item = stacked([item, *self._views(self.information_FF, epoch, step)])
        return TowerBatch(
            user=self.users.take(self.page_E[examples]).tensors(),
            item=item.tensors(),
            candidates=torch.from_numpy(candidates),
            positive_B=torch.from_numpy(np.searchsorted(candidates, positives)),
            hidden=self._hidden(examples, candidates),
            in_batch=tuple(torch.from_numpy(np.unique(self.item_E[own])) for own in of_ranks),
            uniform=len(uniform) / self.items.rows,
        )

    def _hidden(self, examples: IntArray, candidates: IntArray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return examples and candidates, in pairs, where the candidate is another positive of the example's page."""
        pages = self.positives.take(self.page_E[examples])
        rows = row_numbers(np.diff(pages.offsets))
        places = np.minimum(np.searchsorted(candidates, pages.values), len(candidates) - 1)
        others = (candidates[places] == pages.values) & (pages.values != self.item_E[examples][rows])
        return torch.from_numpy(rows[others]), torch.from_numpy(places[others])

    def _views(self, information_FF: npt.NDArray[np.float64], epoch: int, step: int) -> tuple[TowerInputs, TowerInputs]:
        """Return two views of items drawn evenly from the catalogue."""
        rng = self._rng(_SSL, epoch, step)
        items = rng.choice(self.items.rows, min(self.config.ssl_batch_size, self.items.rows), replace=False)
        masks = draw_masks(information_FF, self.config.ssl_masking, self.config.ssl_complementary, rng)
        first, second = (self.items.views(items, hidden, self.config.ssl_dropout, rng) for hidden in masks)
        return first, second

    def _draw(self, stream: int, count: int, epoch: int, step: int) -> IntArray:
        rng = self._rng(stream, epoch, step)
        return rng.choice(self.items.rows, min(count, self.items.rows), replace=False)

    def _rng(self, stream: int, epoch: int, step: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, stream, epoch, step, self.rank])

    def _information(self) -> npt.NDArray[np.float64]:
        """Return how much the item features tell about each other."""
        if len(self.items.schema.item) < 2:
            names = ", ".join(block.name for block in self.items.schema.item) or "none"
            raise ValueError(
                f"ssl_weight: the self-supervised task hides some item features and shows others, expected at least "
                f"two, got {names}; set ssl_weight to 0 or name more item_features"
            )
        count = min(INFORMATION_ITEMS, self.items.rows)
        rng = np.random.default_rng([self.seed, _SAMPLE])
        rows = self.items.take(np.sort(rng.choice(self.items.rows, count, replace=False)))
        numbers = iter(rows.numbers.T)
        bags = [rows.bags[block.bag] if block.bag else _ranges(next(numbers)) for block in self.items.schema.item]
        return mutual_information(bags)


def drop_short_histories(cases: EvaluationCases, min_history: int) -> EvaluationCases:
    """Return the cases with at least `min_history` history items, dislikes not counted; `left_out` counts the others.

    Raises:
        ValueError: None is left.
    """
    lengths_P = np.diff(positive_history(cases.requests)[2])
    kept = np.flatnonzero(lengths_P >= min_history)
    if not len(kept):
        raise ValueError(
            f"no training page has {min_history} earlier items of its user, {len(cases)} pages have fewer; "
            "lower two_tower.min_history"
        )
    left_out = {**cases.left_out, "pages.short_history": len(cases) - len(kept)}
    return dataclasses.replace(cases.take(kept), left_out=left_out)


def _ranges(values: npt.NDArray[np.float32]) -> Bag:
    """Return in which of equally frequent ranges each value lies; nan is in none."""
    present = ~np.isnan(values)
    steps = np.linspace(0, 1, PRICE_STEPS + 1)[1:-1]
    edges = np.quantile(values[present], steps) if present.any() else np.zeros(0)
    return Bag(np.searchsorted(edges, values[present]).astype(np.int64), offsets_from_lengths(present.astype(np.int64)))
