"""The batch source: every window once per epoch, equal for equal seeds, shared out among processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from genrec_cases import make_catalogue, make_sequences

from models.genrec.config import GenRecConfig
from models.genrec.data import sequences_from_table
from models.genrec.source import PackedSource, deal


def make_source(seed: int = 0, batch_tokens: int = 60, **kwargs: int) -> PackedSource:
    rng = np.random.default_rng(0)
    catalogue = make_catalogue(rng)
    config = GenRecConfig(max_history=6, batch_tokens=batch_tokens)
    data = sequences_from_table(make_sequences(rng, catalogue, users=20), catalogue, config)
    return PackedSource(data, catalogue, config, seed=seed, **kwargs)


def test_every_page_once_per_epoch_within_the_budget() -> None:
    source = make_source()
    for epoch in range(3):
        batches = list(source.iterate(epoch, 0))
        assert len(batches) == source.steps_per_epoch
        assert sum(len(batch.page_places_P) for batch in batches) == source.data.pages
        assert all(batch.tokens_BT.numel() <= 60 or len(batch.tokens_BT) == 1 for batch in batches)


def test_epochs_differ_and_seeds_repeat() -> None:
    first, again, other = (
        [b.target_codes_ML for b in source.iterate(epoch, 0)]
        for source, epoch in ((make_source(1), 0), (make_source(1), 0), (make_source(1), 1))
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(first, other, strict=True))
    resumed = [b.target_codes_ML for b in make_source(1).iterate(0, 2)]
    assert all(torch.equal(a, b) for a, b in zip(first[2:], resumed, strict=True))


def test_two_processes_share_the_batches() -> None:
    both = [make_source(rank=rank, world_size=2) for rank in range(2)]
    assert both[0].steps_per_epoch == both[1].steps_per_epoch == make_source().steps_per_epoch // 2
    whole = [b.target_codes_ML for b in make_source().iterate(0, 0)]
    for rank, source in enumerate(both):
        for step, batch in enumerate(source.iterate(0, 0)):
            assert torch.equal(batch.target_codes_ML, whole[2 * step + rank])


def test_too_few_rows_for_the_processes() -> None:
    with pytest.raises(ValueError, match=r"make 1 batches of 100000 places, fewer than 2 processes"):
        make_source(batch_tokens=100_000, world_size=2)


@pytest.mark.parametrize("seed", range(10))
def test_deal_equals_growing_one_row_at_a_time(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths, budget = np.sort(rng.integers(1, 20, 30)), int(rng.integers(1, 60))
    runs = deal(lengths, np.arange(30), budget)
    assert np.concatenate(runs).tolist() == list(range(30))
    for run in runs:
        assert len(run) == 1 or len(run) * lengths[run[-1]] <= budget
