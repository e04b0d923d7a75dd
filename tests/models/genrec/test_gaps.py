"""Time gaps that training never met: a service on old data meets them with every request."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from genrec_cases import DAY, make_catalogue, make_model, make_requests

from models.genrec.batch import PackedBatch, pack_prompts
from models.genrec.data import gap_buckets
from models.genrec.model import GenRec

TRAINED = (2, 16)


def make_case() -> tuple[GenRec, PackedBatch]:
    rng = np.random.default_rng(0)
    catalogue = make_catalogue(rng)
    model = make_model(catalogue)
    with torch.no_grad():
        for table in (model.page_gap_embedding, model.history_gap_embedding):
            table.weight[[bucket for bucket in range(32) if bucket not in TRAINED]] = 0
    return model, pack_prompts(make_requests(rng, catalogue, [3, 1]), catalogue, model.config)


def embedded(model: GenRec, batch: PackedBatch, page_gap: int, history_gap: int) -> torch.Tensor:
    changed = dataclasses.replace(
        batch,
        page_gaps_P=torch.full_like(batch.page_gaps_P, page_gap),
        history_gaps_H=torch.full_like(batch.history_gaps_H, history_gap),
    )
    with torch.no_grad():
        return model.embed(changed)


def test_an_unknown_gap_counts_as_the_next_shorter_known_one() -> None:
    model, batch = make_case()
    thirty_years = int(gap_buckets(np.array([30 * 365 * DAY]))[0])
    known = embedded(model, batch, 16, 16)
    assert torch.equal(embedded(model, batch, thirty_years, thirty_years), known)
    assert not torch.equal(embedded(model, batch, 15, 16), known)
    assert torch.equal(embedded(model, batch, 15, 3), embedded(model, batch, 2, 2))


def test_training_looks_up_the_gap_itself() -> None:
    model, batch = make_case()
    model.train()
    assert not torch.equal(embedded(model, batch, 29, 16), embedded(model, batch, 16, 16))


def test_before_any_training_all_gaps_are_zero_vectors() -> None:
    model, batch = make_case()
    torch.nn.init.zeros_(model.page_gap_embedding.weight)
    assert torch.equal(embedded(model, batch, 29, 16), embedded(model, batch, 0, 16))
