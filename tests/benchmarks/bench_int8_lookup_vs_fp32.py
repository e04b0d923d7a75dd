"""Row-wise int8 tables against float32 ones: bytes, and the time of pooled and single lookups of random rows.

A million rows of 64 numbers, more than the processor's cache holds. One thread, all forms in turn, the best of several
rounds each. Before any figure is returned, every int8 vector is within the error that its rows' scales allow.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.embedding.bags import PlainBags
from models.embedding.int8 import HEADER_BYTES, quantize
from models.embedding.plain import PlainTables
from models.embedding.spec import BagSpec, Pooling, TableSpec

NAME = "int8_lookup_vs_fp32"
ROWS, DIMENSIONS = 1_000_000, 64
BAG_IDS = 20
LOOKUPS = 40_000
ROUNDS = 50


def run(full: bool) -> list[dict[str, Any]]:
    """Measure sums and means of bags of 20, single vectors, and the bytes of the table."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            return _run()
    finally:
        torch.set_num_threads(threads)


def _run() -> list[dict[str, Any]]:
    spec, generator = TableSpec("item", ROWS, DIMENSIONS, init_scale=0.1), torch.Generator().manual_seed(1)
    weight = torch.empty(ROWS, DIMENSIONS).uniform_(-0.1, 0.1, generator=generator)
    ids_v = torch.randint(0, ROWS, (LOOKUPS,), generator=generator)
    bag = {"seen": (ids_v, torch.arange(0, LOOKUPS + 1, BAG_IDS))}
    results = [
        *_pooled(NAME, spec, weight, "sum", bag),
        *_pooled(f"{NAME}[mean]", spec, weight, "mean", bag),
        *_single(f"{NAME}[single]", spec, weight, ids_v),
    ]
    after, before = ROWS * (DIMENSIONS + HEADER_BYTES), weight.nbytes
    return [results[0], _bytes(before, after), *results[1:]]


def _bytes(before: int, after: int) -> dict[str, Any]:
    return {
        "name": f"{NAME}_bytes",
        "ours": after,
        "peer": before,
        "peer_name": "float32 table",
        "unit": "bytes",
        "ratio": before / after,
        "better": "lower",
    }


def _pooled(
    name: str, spec: TableSpec, weight: Tensor, pooling: Pooling, bag: dict[str, tuple[Tensor, Tensor]]
) -> list[dict[str, Any]]:
    plain = PlainBags([spec], [BagSpec("seen", spec.name, pooling)])
    plain.collection.embedding_bags[spec.name].weight = nn.Parameter(weight)
    peer = nn.EmbeddingBag.from_pretrained(weight, mode=pooling, include_last_offset=True)
    int8 = _quantized(plain)
    _assert_close(int8(bag)["seen"], plain(bag)["seen"], weight, BAG_IDS if pooling == "sum" else 1)
    works = (lambda: int8(bag), lambda: plain(bag), lambda: peer(*bag["seen"]))
    return _results(name, works, ("PlainBags", "nn.EmbeddingBag"))


def _quantized(plain: nn.Module) -> nn.Module:
    holder = nn.ModuleDict({"of": plain})
    report = quantize(holder)
    assert report.bytes_after == ROWS * (DIMENSIONS + HEADER_BYTES)
    return holder["of"]


def _single(name: str, spec: TableSpec, weight: Tensor, ids_v: Tensor) -> list[dict[str, Any]]:
    plain, ids = PlainTables([spec]), {spec.name: ids_v}
    plain.collection.embeddings[spec.name].weight = nn.Parameter(weight)
    int8 = _quantized(plain)
    _assert_close(int8(ids)[spec.name], plain(ids)[spec.name], weight, 1)
    works = (lambda: int8(ids), lambda: plain(ids), lambda: F.embedding(ids_v, weight))
    return _results(name, works, ("PlainTables", "F.embedding"))


def _assert_close(ours: Tensor, peer: Tensor, weight: Tensor, terms: int) -> None:
    """Half a step of the widest row for each number that was added up, and rounding of float32."""
    step = float((weight.amax(1) - weight.amin(1)).max()) / 255
    assert ours.shape == peer.shape
    assert float((ours - peer).abs().max()) <= terms * (step / 2 + 1e-7)


def _results(name: str, works: tuple[Callable[[], Any], ...], peers: tuple[str, str]) -> list[dict[str, Any]]:
    """Time ours, the like form in float32 and torch's own; results against both."""
    seconds = [float("inf")] * len(works)
    for _ in range(ROUNDS):
        for place, work in enumerate(works):
            started = time.perf_counter()
            work()
            seconds[place] = min(seconds[place], time.perf_counter() - started)
    ours = seconds[0]
    return [
        {
            "name": name if place == 0 else f"{name}[torch]",
            "ours": LOOKUPS / ours,
            "peer": LOOKUPS / taken,
            "peer_name": f"{peer} float32, one thread",
            "unit": "rows/s",
            "ratio": taken / ours,
            "better": "higher",
        }
        for place, (peer, taken) in enumerate(zip(peers, seconds[1:], strict=True))
    ]
