"""100 items appended to a page maker, and 100 withdrawn, against building its parts anew for the larger catalogue.

Item transitions, the popular list, a GenRec of 3 levels of 256 codes (1,024 from 10**6 items on) and a flat two-tower
index of width 64. All retrievers must answer alike on both sides. Processor time of one thread.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
import torch

from features.schemas import CLICK, EVENT_CODE, ITEMS
from features.semantic_ids import Catalogue
from models.genrec.config import DecodeConfig, GenRecConfig
from models.genrec.model import GenRec
from models.recommend.config import RecommendConfig
from models.recommend.delta_files import Changes
from models.recommend.deltas import CatalogueState, with_changes
from models.recommend.genrec_retriever import GenRecRetriever
from models.recommend.interface import RequestBatch
from models.recommend.recommender import Recommender
from models.recommend.release import Release
from models.recommend.release_manifest import ReleaseManifest
from models.recommend.retrievers import PopularRetriever, TransitionsRetriever
from models.recommend.rules import CatalogueFacts
from models.recommend.two_tower_retriever import TwoTowerRetriever
from models.recommend.vector_index import VectorIndex
from models.recommend.vector_index_config import IndexConfig

NAME = "catalogue_delta"
NEW, WIDTH, FOLLOWERS = 100, 64, 10


class LastItem:
    """A user stands where the last item of the history stands."""

    def __init__(self, vectors_ND: np.ndarray) -> None:
        self.vectors_ND = vectors_ND

    def user_vectors(self, requests: RequestBatch, catalogue: Catalogue) -> np.ndarray:
        return self.vectors_ND[requests.history_items[requests.history_offsets[1:] - 1]]


class Shop:
    """Parts of a page maker over random items; the last `NEW` are those of the delta."""

    def __init__(self, items: int) -> None:
        rng, self.size = np.random.default_rng(items), items + NEW
        self.codes = (256,) * 3 if items < 10**6 else (1024,) * 3
        self.codes_NL = rng.integers(0, self.codes[0], (self.size, 3))
        self.ids = pa.array([f"item{number:07d}" for number in range(self.size)])
        self.vectors_ND = rng.standard_normal((self.size, WIDTH), dtype=np.float32)
        self.vectors_ND /= np.linalg.norm(self.vectors_ND, axis=1, keepdims=True)
        self.popularity_N = np.append(np.sort(rng.zipf(1.3, items) % 10**6)[::-1], np.zeros(NEW))
        followers = rng.integers(0, items, items * FOLLOWERS)
        offsets = np.append(np.arange(items + 1) * FOLLOWERS, np.full(NEW, items * FOLLOWERS))
        weights = rng.random(items * FOLLOWERS) + 0.1
        self.weights = sp.csr_matrix((weights, followers, offsets), shape=(self.size, self.size))
        self.weights.sum_duplicates()
        brands = pa.array([f"brand{number % 1000}" for number in range(self.size)])
        columns = {"item_id": self.ids, "title": self.ids, "brand": brands, "price": pa.array(rng.random(self.size))}
        nothing = {name: pa.nulls(self.size, ITEMS.field(name).type) for name in ITEMS.names if name not in columns}
        self.table = pa.table({**columns, **nothing}).select(ITEMS.names).cast(ITEMS)
        torch.manual_seed(0)
        config = GenRecConfig(layers=1, width=32, heads=2, kv_heads=1, ffn_width=32)
        self.model = GenRec(config, Catalogue(self.ids[:1], self.codes_NL[:1], self.codes).vocabulary, items)

    def maker(self, count: int) -> Recommender:
        """Build the page maker of the first `count` items."""
        catalogue = Catalogue(self.ids[:count], self.codes_NL[:count], self.codes, self.popularity_N[:count])
        popularity_N, index = self.popularity_N[:count], VectorIndex.build(self.vectors_ND[:count], IndexConfig())
        retrievers = [
            GenRecRetriever(self.model, catalogue, DecodeConfig(beams=50)),
            TransitionsRetriever(self.weights[:count, :count], popularity_N),
            TwoTowerRetriever(LastItem(self.vectors_ND), index, catalogue.item_ids, catalogue),
            PopularRetriever(popularity_N),
        ]
        facts = CatalogueFacts(self.table.slice(0, count), catalogue)
        return Recommender(catalogue, retrievers, RecommendConfig(), facts)

    def appended(self) -> Changes:
        return Changes(
            items=self.table.slice(self.size - NEW),
            new_ids=self.ids[self.size - NEW :],
            codes_ML=self.codes_NL[self.size - NEW :].astype(np.int32),
            content_MV=np.zeros((NEW, 0), np.float32),
            vectors_MD=self.vectors_ND[self.size - NEW :],
            withdrawn=pa.array([], pa.string()),
        )

    def withdrawn(self) -> Changes:
        return Changes(
            items=self.table.slice(0, 0),
            new_ids=self.ids[:0],
            codes_ML=np.zeros((0, 3), np.int32),
            content_MV=np.zeros((0, 0), np.float32),
            vectors_MD=None,
            withdrawn=self.ids[:NEW],
        )


def run(full: bool) -> list[dict[str, Any]]:
    """Measure 10**5 items, or 10**5 and 10**6."""
    torch.set_num_threads(1)
    results = []
    for items in (10**5, 10**6) if full else (10**5,):
        shop = Shop(items)
        state = CatalogueState.of(_release(shop.maker(items)))
        append_s, larger = _timed(lambda state=state, shop=shop: with_changes(state, shop.appended()))
        anew_s, anew = _timed(lambda shop=shop: shop.maker(shop.size))
        withdraw_s, _ = _timed(lambda larger=larger, shop=shop: with_changes(larger, shop.withdrawn()))
        assert_equal(larger.recommender, anew)
        suffix = "" if items == 10**5 else f"[{items:.0e} items]"
        results += [
            _result(f"append {NEW}{suffix}", append_s, anew_s),
            _result(f"withdraw {NEW}{suffix}", withdraw_s, anew_s),
        ]
        print(f"{items:,} items: peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")
    return results


def assert_equal(found: Recommender, expected: Recommender) -> None:
    """Raise unless every retriever of both makers answers alike, users of new items included."""
    histories = np.arange(8) * (len(expected.catalogue) - 1) // 7
    requests = RequestBatch(
        user_ids=[f"u{row}" for row in range(8)],
        times_B=np.full(8, 10**12),
        history_items=histories,
        history_events=np.full(8, EVENT_CODE[CLICK], np.int8),
        history_times=np.full(8, 10**11),
        history_offsets=np.arange(9),
        excluded_items=np.zeros(0, np.int64),
        excluded_offsets=np.zeros(9, np.int64),
    )
    for ours, theirs in zip(found.candidates(requests, 50), expected.candidates(requests, 50), strict=True):
        np.testing.assert_array_equal(ours.items_BK, theirs.items_BK)
        np.testing.assert_allclose(ours.scores_BK, theirs.scores_BK, rtol=1e-5)


def _timed(make: Callable[[], Any]) -> tuple[float, Any]:
    """Return the better of two times, and what was made."""
    seconds = []
    for _ in range(2):
        started = time.process_time()
        made = make()
        seconds.append(time.process_time() - started)
    return min(seconds), made


def _result(what: str, ours: float, peer: float) -> dict[str, Any]:
    return {
        "name": f"{NAME}: {what}",
        "ours": ours,
        "peer": peer,
        "peer_name": "building all parts anew",
        "unit": "s",
        "ratio": peer / ours,
        "better": "lower",
    }


def _release(maker: Recommender) -> Release:
    manifest = ReleaseManifest(
        release_id="bench",
        generation="",
        catalogue="",
        feature_schema="",
        code_version="",
        retrievers=(),
        runs={},
        files={},
        metrics={},
    )
    return Release(directory=Path("bench"), manifest=manifest, recommender=maker)
