"""Small random worlds for the GenRec tests: a catalogue, sequences in the table's schema, a model."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch

from features.schemas import SEQUENCES
from features.semantic_ids import Catalogue
from kernels.jagged import offsets_from_lengths
from models.genrec.config import GenRecConfig
from models.genrec.model import GenRec
from models.recommend.interface import RequestBatch

DAY = 86_400_000


def make_catalogue(rng: np.random.Generator, items: int = 40, codes: tuple[int, ...] = (4, 4, 4)) -> Catalogue:
    codes_NL = np.stack([rng.integers(0, size, items) for size in codes], axis=1)
    return Catalogue([f"i{number}" for number in range(items)], codes_NL, codes, rng.random(items))


def make_sequences(rng: np.random.Generator, catalogue: Catalogue, users: int = 6, pages: int = 7) -> pa.Table:
    """Pages a few days apart, sometimes overlapping (a late purchase), with unknown items and pure impressions."""
    rows = []
    for user in range(users):
        count = int(rng.integers(1, pages + 1))
        page_times = np.sort(rng.integers(0, 30, count)) * DAY
        lengths = rng.integers(1, 5, count)
        events = [np.sort(rng.integers(0, 4, length))[::-1] for length in lengths]
        times = [page_times[p] + rng.integers(0, 3 * DAY, lengths[p]) for p in range(count)]
        numbers = rng.integers(0, len(catalogue) + 3, int(lengths.sum()))
        rows.append(
            {
                "user_id": f"u{user}",
                "split": "train",
                "page_ids": [f"u{user}p{p}" for p in range(count)],
                "page_times": page_times.tolist(),
                "page_lengths": lengths.tolist(),
                "items": [f"i{number}" for number in numbers],
                "events": np.concatenate(events).tolist(),
                "times": np.concatenate(times).tolist(),
            }
        )
    return pa.Table.from_pylist(rows, schema=SEQUENCES)


def make_model(catalogue: Catalogue, seed: int = 0, vector_width: int = 0, **changes: object) -> GenRec:
    shape = {"layers": 2, "width": 16, "heads": 4, "kv_heads": 2, "ffn_width": 24, "dropout": 0.0, "max_history": 6}
    config = GenRecConfig(**{**shape, **changes})  # type: ignore[arg-type]
    torch.manual_seed(seed)
    model = GenRec(config, catalogue.vocabulary, len(catalogue), vector_width=vector_width)
    for parameter in model.parameters():  # zero and tiny initial values would hide mistakes
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def make_requests(rng: np.random.Generator, catalogue: Catalogue, lengths: list[int]) -> RequestBatch:
    total = sum(lengths)
    return RequestBatch(
        user_ids=[f"u{b}" for b in range(len(lengths))],
        times_B=np.full(len(lengths), 100 * DAY, dtype=np.int64),
        history_items=rng.integers(0, len(catalogue), total),
        history_events=rng.integers(1, 4, total).astype(np.int8),
        history_times=np.concatenate([np.sort(rng.integers(0, 90 * DAY, n)) for n in lengths]).astype(np.int64),
        history_offsets=offsets_from_lengths(np.array(lengths)),
        excluded_items=np.zeros(0, dtype=np.int64),
        excluded_offsets=np.zeros(len(lengths) + 1, dtype=np.int64),
    )
