"""Deals pages to training batches: shuffled every epoch, equally many on every process."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from models.ranker.data import RankerData
from models.ranker.model import RankerBatch


class PageSource:
    """Deals the pages of `data` to batches of `batch_size` pages per process; what is left over waits an epoch.

    Args:
        data: Encoded pages.
        batch_size: Pages of a batch per process; fewer where there are not so many.
        seed: Of the order.
        rank, world_size: This process's share: every `world_size`-th page of a step.

    Raises:
        ValueError: There are fewer pages than processes.
    """

    def __init__(self, data: RankerData, batch_size: int, *, seed: int, rank: int = 0, world_size: int = 1) -> None:
        pages = len(data.examples)
        if pages < world_size:
            raise ValueError(f"{pages} training pages are fewer than {world_size} processes; use fewer processes")
        self.data, self.seed, self.rank, self.world_size = data, seed, rank, world_size
        self.batch_size = min(batch_size, pages // world_size)
        self.steps_per_epoch = pages // (self.batch_size * world_size)

    def iterate(self, epoch: int, start_step: int) -> Iterator[RankerBatch]:
        """Yield this process's batches of an epoch from `start_step` on."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.data.examples))
        step_pages = self.batch_size * self.world_size
        lengths_P = np.diff(self.data.examples.offsets)
        for step in range(start_step, self.steps_per_epoch):
            pages = order[step * step_pages : (step + 1) * step_pages]
            # every candidate of a step counts alike, whichever process has it
            share = self.world_size / float(lengths_P[pages].sum())
            yield self.data.batch(pages[self.rank :: self.world_size], share)
