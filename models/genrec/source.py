"""Batches for the training loop: rows of like length together, in a new order every epoch, the same for a seed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from features.semantic_ids import Catalogue
from models.genrec.batch import PackedBatch, pack_windows
from models.genrec.config import GenRecConfig
from models.genrec.data import IntArray, SequenceData, draw_responses, make_windows

_TIES, _CANDIDATES = 1, 2
"""Name the streams of random numbers that order ties and draw candidates, apart from the one that orders batches."""


class PackedSource:
    """Deals the windows of `data` to batches of at most `config.batch_tokens` places.

    Args:
        data: Histories and pages.
        catalogue: Semantic IDs.
        config: Windows and batch size.
        seed: Of the order.
        rank, world_size: This process's share: every `world_size`-th batch.

    Raises:
        ValueError: There are fewer batches than processes.
    """

    def __init__(
        self,
        data: SequenceData,
        catalogue: Catalogue,
        config: GenRecConfig,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.data, self.catalogue, self.config = data, catalogue, config
        self.seed, self.rank, self.world_size = seed, rank, world_size
        # Lengths, hence windows, are the same in every epoch; only the order of ties differs.
        self.windows = make_windows(self._drawn(0), config, catalogue.vocabulary.levels)
        batches = len(self._batches(0))
        self.steps_per_epoch = batches // world_size
        if not self.steps_per_epoch:
            raise ValueError(
                f"{len(self.windows)} training rows make {batches} batches of {config.batch_tokens} places, fewer "
                f"than {world_size} processes; lower genrec.batch_tokens or use fewer processes"
            )

    def iterate(self, epoch: int, start_step: int) -> Iterator[PackedBatch]:
        """Yield this process's batches of an epoch from `start_step` on."""
        batches = self._batches(epoch)[self.rank :: self.world_size][: self.steps_per_epoch]
        data = self._drawn(epoch)
        for step, chosen in enumerate(batches[start_step:], start_step):
            rng = np.random.default_rng([self.seed, epoch, _CANDIDATES, self.rank, step])
            yield pack_windows(data, self.windows, chosen, self.catalogue, self.config, rng)

    def _drawn(self, epoch: int) -> SequenceData:
        return draw_responses(self.data, self.config, np.random.default_rng([self.seed, epoch, _TIES]))

    def _batches(self, epoch: int) -> list[IntArray]:
        rng = np.random.default_rng([self.seed, epoch])
        tokens = self.windows.tokens_W
        # Sorting a shuffled list mixes rows of equal length and keeps the number of batches the same every epoch.
        shuffled = rng.permutation(len(tokens))
        order = shuffled[np.argsort(tokens[shuffled], kind="stable")]
        batches = deal(tokens[order], order, self.config.batch_tokens)
        rng.shuffle(batches)
        return batches


def deal(lengths: IntArray, rows: IntArray, budget: int) -> list[IntArray]:
    """Cut `rows` into runs whose count times longest length is at most `budget` (one row at least).

    Example:
        >>> [run.tolist() for run in deal(np.array([2, 2, 3, 9]), np.array([7, 5, 6, 4]), budget=6)]
        [[7, 5], [6], [4]]
    """
    longest = np.maximum.accumulate(lengths)
    runs, start = [], 0
    while start < len(rows):
        count = max(1, budget // int(longest[start]))
        while count > 1 and (start + count > len(rows) or longest[start + count - 1] * count > budget):
            count -= 1
        runs.append(rows[start : start + count])
        start += count
    return runs
