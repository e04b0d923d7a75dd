"""What the benchmarks of beam search share: clustered semantic IDs, a GenRec of the Beauty preset's size, prompts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
import torch

from features.schemas import CLICK, EVENT_CODE
from features.semantic_ids import Catalogue
from kernels.allowed_ids import AllowedIds
from models.genrec.batch import PackedBatch, pack_prompts
from models.genrec.config import GenRecConfig
from models.genrec.model import GenRec
from models.recommend.interface import RequestBatch

CODES, ITEMS = (256, 256, 256), 12_101
"""Of Amazon Beauty (5-core)."""
REQUESTS, BEAMS = 8, 50
DAY = 86_400_000


def clustered_sids(size: int, codes: tuple[int, int, int] = CODES) -> np.ndarray:
    """Return `size` sorted distinct IDs: first codes even, as balanced k-means makes them, later ones clustered.

    Under each prefix a few codes are frequent and most are rare, geometrically; the frequent ones differ by prefix.
    """
    rng = np.random.default_rng(0)
    drawn, keys = size, np.empty(0, dtype=np.int64)
    while len(keys) < size:
        drawn *= 2
        first = rng.integers(0, codes[0], drawn)
        second = (first * 37 + rng.geometric(8 / codes[1], drawn)) % codes[1]
        third = ((first * 53 + second) * 101 + rng.geometric(4 / codes[2], drawn)) % codes[2]
        keys = np.unique((first * codes[1] + second) * codes[2] + third)
    keys = np.sort(rng.choice(keys, size, replace=False))
    return np.stack([keys // (codes[1] * codes[2]), keys // codes[2] % codes[1], keys % codes[2]], axis=1)


def make_catalogue(codes: tuple[int, int, int] = CODES) -> Catalogue:
    """Return a catalogue of Beauty's size, one item per ID."""
    return Catalogue([f"i{number}" for number in range(ITEMS)], clustered_sids(ITEMS, codes), codes)


def make_model(catalogue: Catalogue, history: int, merged: bool = True) -> GenRec:
    """Return an untrained GenRec; its weights are wide enough for scores to differ."""
    torch.manual_seed(0)
    config = GenRecConfig(kv_heads=4, ffn_width=512, max_history=history, merge_history=merged)
    model = GenRec(config, catalogue.vocabulary, len(catalogue))
    with torch.no_grad():
        for parameter in model.model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.1)
    return model.eval()


def make_prompts(model: GenRec, catalogue: Catalogue, history: int, requests: int = REQUESTS) -> PackedBatch:
    """Return prompts of equally long histories."""
    rng = np.random.default_rng(1)
    offsets = np.arange(requests + 1) * history
    batch = RequestBatch(
        user_ids=[f"u{number}" for number in range(requests)],
        times_B=np.full(requests, 100 * DAY),
        history_items=rng.integers(0, len(catalogue), requests * history),
        history_events=np.full(requests * history, EVENT_CODE[CLICK], dtype=np.int8),
        history_times=np.sort(rng.integers(0, 90 * DAY, (requests, history)), axis=1).reshape(-1),
        history_offsets=offsets,
        excluded_items=np.zeros(0, dtype=np.int64),
        excluded_offsets=np.zeros_like(offsets),
    )
    return pack_prompts(batch, catalogue, model.config)


def make_allowed(ids: int, share: float, requests: int = REQUESTS) -> AllowedIds:
    """Return two filters that leave a `share` of the IDs, and 50 more for each request that it has seen."""
    rng = np.random.default_rng(2)
    left_FS = torch.from_numpy(rng.random((2, ids)) < share)
    filter_B = torch.arange(requests) % 2
    seen = [np.sort(rng.choice(np.flatnonzero(left_FS[number]), 50, replace=False)) for number in filter_B.tolist()]
    return AllowedIds(AllowedIds.from_bitmap(left_FS).counts_FS, filter_B, torch.from_numpy(np.stack(seen)))


def processor_seconds(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Run all works in turn, `rounds` times after one to warm up, and return the least processor time of each."""
    least = dict.fromkeys(works, float("inf"))
    for number in range(rounds + 1):
        for name, work in works.items():
            started = time.process_time()
            work()
            if number:
                least[name] = min(least[name], time.process_time() - started)
    return least
