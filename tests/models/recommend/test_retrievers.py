"""One conformance suite for all retrievers, then what is particular to each.

A retriever joins the suite by one entry of `RETRIEVERS`: a function of the world that builds it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp
import torch
from planted_encoder import PlantedEncoder

from features.schemas import CLICK, DISLIKE, EVENT_CODE, IMPRESSION, PURCHASE
from features.schemas import ITEMS as ITEM_SCHEMA
from features.semantic_ids import Catalogue
from features.workspace import Workspace
from models.genrec.config import DecodeConfig, GenRecConfig
from models.genrec.model import GenRec
from models.inputs.items import item_columns
from models.recommend.eligibility import Eligibility, ItemMask
from models.recommend.genrec_retriever import GenRecRetriever
from models.recommend.interface import NO_ITEM, RequestBatch, Retriever
from models.recommend.retrievers import PopularRetriever, TransitionsRetriever
from models.recommend.two_tower_retriever import TwoTowerRetriever
from models.recommend.vector_index_config import IndexConfig
from models.two_tower.config import TwoTowerConfig
from models.two_tower.inputs import ItemRows, tower_columns
from models.two_tower.model import TwoTower
from models.two_tower.schema import make_schema
from models.two_tower.towers import TwoTowerNet

ITEMS = 12


@dataclasses.dataclass(frozen=True)
class World:
    """A catalogue of 12 items, their popularity with ties, and the transitions between them."""

    catalogue: Catalogue
    statistics: pa.Table
    transitions: pa.Table


def make_world() -> World:
    rng = np.random.default_rng(4)
    ids = [f"item{number:02d}" for number in range(ITEMS)]
    catalogue = Catalogue(ids, rng.integers(4, size=(ITEMS, 2)), (4, 4))
    statistics = pa.table({"item_id": [*ids[:10], "gone"], "popularity": [3.0, 9, 9, 1, 5, 5, 5, 2, 1, 1, 100]})
    pairs = [(a, b) for a in range(ITEMS) for b in range(ITEMS) if rng.random() < 0.25]
    transitions = pa.table(
        {
            "item_id": [*(ids[a] for a, _ in pairs), "gone", ids[0]],
            "next_item_id": [*(ids[b] for _, b in pairs), ids[0], "gone"],
            "weight": [*(rng.integers(1, 4, size=len(pairs)) / 4), 9.0, 9.0],
        }
    )
    return World(catalogue, statistics, transitions)


def make_genrec(world: World) -> GenRecRetriever:
    torch.manual_seed(0)
    shape = GenRecConfig(layers=1, width=16, heads=2, kv_heads=1, ffn_width=16)
    return GenRecRetriever(GenRec(shape, world.catalogue.vocabulary, ITEMS), world.catalogue, DecodeConfig(beams=8))


def make_two_tower(world: World, **options: object) -> TwoTowerRetriever:
    encoder = PlantedEncoder(ITEMS)
    config = IndexConfig(**options)  # type: ignore[arg-type]
    return TwoTowerRetriever.build(encoder, encoder.item_vectors(), world.catalogue.item_ids, world.catalogue, config)


def make_towers(world: World) -> TwoTowerRetriever:
    """The real model, untrained."""
    ids = world.catalogue.item_ids.to_pylist()
    rows = [{"item_id": item, "title": f"kite {item}", "category": [f"c{place % 3}"]} for place, item in enumerate(ids)]
    columns = item_columns(pa.Table.from_pylist(rows, schema=ITEM_SCHEMA))
    config = TwoTowerConfig(hidden=(16, 8), item_dimensions=8, feature_dimensions=4, frequency_buckets=64)
    seen = tower_columns(make_requests(HISTORIES))
    schema = make_schema(columns, seen, np.arange(ITEMS), config, order_only=False)
    torch.manual_seed(0)
    items = ItemRows.of(schema, columns)
    model = TwoTower(TwoTowerNet(schema, config, ITEMS), schema, world.catalogue.item_ids, items)
    vectors_ND = model.known_item_vectors()
    return TwoTowerRetriever.build(model, vectors_ND, model.item_ids, world.catalogue, IndexConfig())


RETRIEVERS: dict[str, Callable[[World], Retriever]] = {
    "popular": lambda world: PopularRetriever.from_arrow(world.statistics, world.catalogue),
    "transitions": lambda world: TransitionsRetriever.from_arrow(world.transitions, world.statistics, world.catalogue),
    "genrec": make_genrec,
    "two_tower": make_two_tower,
    "two_tower model": make_towers,
    "two_tower over a graph": lambda world: make_two_tower(world, kind="hnsw", hnsw_m=2, ef_search=1),
}


def make_requests(
    histories: list[list[int]], excluded: list[list[int]] | None = None, events: list[list[int]] | None = None
) -> RequestBatch:
    excluded = excluded or [[] for _ in histories]
    flat = [item for row in histories for item in row]
    kinds = [kind for row in events for kind in row] if events else [EVENT_CODE[CLICK]] * len(flat)
    return RequestBatch(
        user_ids=[f"user{row}" for row in range(len(histories))],
        times_B=np.full(len(histories), 1_000, dtype=np.int64),
        history_items=np.array(flat, dtype=np.int64),
        history_events=np.array(kinds, dtype=np.int8),
        history_times=np.arange(len(flat), dtype=np.int64),
        history_offsets=np.cumsum([0, *map(len, histories)]),
        excluded_items=np.array([item for row in excluded for item in row], dtype=np.int64),
        excluded_offsets=np.cumsum([0, *map(len, excluded)]),
    )


HISTORIES = [[], [3], [0, 1, 2, 2, 7], list(range(ITEMS)) * 2, [11, 5]]
EXCLUDED = [[1, 4], [], [2, 2, 0], list(range(ITEMS)), [i for i in range(ITEMS) if i != 6]]
NAMES = ["cold user", "one item", "repeats", "everything excluded", "one item left"]


@pytest.fixture(params=sorted(RETRIEVERS))
def retriever(request: pytest.FixtureRequest) -> Retriever:
    return RETRIEVERS[request.param](make_world())


@pytest.mark.parametrize("k", [1, 4, ITEMS, 3 * ITEMS])
def test_conformance(retriever: Retriever, k: int):
    requests = make_requests(HISTORIES, EXCLUDED)
    found = retriever.retrieve(requests, k)
    assert found.source == retriever.name
    assert found.items_BK.shape == found.scores_BK.shape == (len(requests), k)
    assert (found.items_BK.dtype, found.scores_BK.dtype) == (np.int64, np.float32)
    for name, items, scores, excluded in zip(NAMES, found.items_BK, found.scores_BK, EXCLUDED, strict=True):
        real = items[items != NO_ITEM]
        assert len(set(real.tolist())) == len(real), f"{name}: an item twice"
        assert not set(real.tolist()) & set(excluded), f"{name}: an excluded item"
        assert ((real >= 0) & (real < ITEMS)).all(), name
        assert (items[: len(real)] == real).all(), f"{name}: NO_ITEM before an item"
        assert (np.isneginf(scores) == (items == NO_ITEM)).all(), f"{name}: -inf exactly where there is no item"
        assert (scores[:-1] >= scores[1:]).all(), f"{name}: scores rise"
    assert (found.items_BK[3] == NO_ITEM).all()
    assert set(found.items_BK[4].tolist()) <= {6, NO_ITEM}


def test_conformance_answers_do_not_depend_on_the_batch(retriever: Retriever):
    requests = make_requests(HISTORIES, EXCLUDED)
    together = retriever.retrieve(requests, 5)
    for row in range(len(requests)):
        alone = retriever.retrieve(requests.take(np.array([row])), 5)
        assert alone.items_BK[0].tolist() == together.items_BK[row].tolist()
        np.testing.assert_allclose(alone.scores_BK[0], together.scores_BK[row], rtol=1e-5)


def filtered(excluded: list[list[int]] | None = None) -> RequestBatch:
    """Everything passes, the odd items, nothing, item 6, the odd items again."""
    numbers = np.arange(ITEMS)
    masks_FN = np.stack([numbers >= 0, numbers % 2 == 1, numbers < 0, numbers == 6])
    return dataclasses.replace(make_requests(HISTORIES, excluded), eligible=Eligibility.of(masks_FN, [0, 1, 2, 3, 1]))


@pytest.mark.parametrize("k", [1, 4, ITEMS, 3 * ITEMS])
def test_conformance_filters_and_exclusions_leave_what_is_left_of_everything(retriever: Retriever, k: int):
    everything = retriever.retrieve(make_requests(HISTORIES), ITEMS)
    excluded = [[0, 3], [5, 5, 2], [], [1], []]
    requests = filtered(excluded)
    found = retriever.retrieve(requests, k)
    eligible = requests.eligible
    assert eligible is not None
    for row, out in enumerate(excluded):
        listed = [item for item in everything.items_BK[row].tolist() if item != NO_ITEM]
        left = [item for item in listed if eligible.mask_of(row).allowed_N[item] and item not in out]
        items = found.items_BK[row]
        assert items[items != NO_ITEM].tolist() == left[:k]
        assert (np.isneginf(found.scores_BK[row]) == (items == NO_ITEM)).all()


def test_conformance_filtered_answers_do_not_depend_on_the_batch(retriever: Retriever):
    requests = filtered(EXCLUDED)
    together = retriever.retrieve(requests, 5)
    for row in range(len(requests)):
        alone = retriever.retrieve(requests.take(np.array([row])), 5)
        assert alone.items_BK[0].tolist() == together.items_BK[row].tolist()
    assert retriever.retrieve(requests.take(np.zeros(0, np.int64)), 5).items_BK.shape == (0, 5)


def test_popular_ranks_by_popularity_then_item_number_and_skips_excluded_items():
    popular = RETRIEVERS["popular"](make_world())
    found = popular.retrieve(make_requests([[], []], [[], [1, 5]]), 7)
    assert found.items_BK.tolist() == [[1, 2, 4, 5, 6, 0, 7], [2, 4, 6, 0, 7, 3, 8]]
    assert found.scores_BK[0].tolist() == [9, 9, 5, 5, 5, 3, 2]


def test_popular_ranks_new_items_last():
    popular = RETRIEVERS["popular"](make_world())
    assert popular.retrieve(make_requests([[]]), ITEMS).items_BK[0].tolist()[-2:] == [10, 11]


def small_transitions(**options: float) -> TransitionsRetriever:
    """Popularity 4 3 2 1 0; item 0 leads to 3 (weight 1) and 4 (1/2), item 1 to 4 (1)."""
    weights = sp.csr_matrix(([1.0, 0.5, 1.0], ([0, 0, 1], [3, 4, 4])), shape=(5, 5))
    return TransitionsRetriever(weights, np.array([4.0, 3, 2, 1, 0]), **options)


def test_transitions_decay_with_age_and_popular_items_follow():
    found = small_transitions().retrieve(make_requests([[1, 0]]), 5)
    # newest 0: item 3 gets 1, item 4 gets 1/2; before it 1: item 4 gets 0.7 more
    assert found.items_BK[0].tolist() == [4, 3, 0, 1, 2]
    assert found.scores_BK[0].tolist() == pytest.approx([0.5 + 0.7, 1.0, 0, 0, 0])


def test_popularity_breaks_ties_of_transitions():
    found = small_transitions(decay=1.0).retrieve(make_requests([[0], [1], [0, 1]]), 2)
    assert found.items_BK.tolist() == [[3, 4], [4, 0], [4, 3]]
    tied = TransitionsRetriever(sp.csr_matrix(np.ones((3, 3))), np.array([1.0, 5.0, 5.0]))
    assert tied.retrieve(make_requests([[0]]), 3).items_BK.tolist() == [[1, 2, 0]]


def test_transitions_use_the_newest_positive_events_only():
    transitions = small_transitions(window=2)
    kinds = [EVENT_CODE[kind] for kind in (CLICK, PURCHASE, IMPRESSION, DISLIKE, CLICK)]
    found = transitions.retrieve(make_requests([[0, 1, 0, 0, 2]], events=[kinds]), 1)
    # window of 2 positives: item 2 (leads nowhere), then item 1, not the impression, the dislike or the oldest click
    assert (found.items_BK[0, 0], found.scores_BK[0, 0]) == (4, pytest.approx(0.7))


def test_excluded_items_are_neither_scored_nor_filled_in():
    found = small_transitions().retrieve(make_requests([[0]], [[3, 0]]), 5)
    assert found.items_BK[0].tolist() == [4, 1, 2, NO_ITEM, NO_ITEM]


def test_similar_items_are_followers_without_the_item_itself_and_nothing_filled_in():
    weights = sp.csr_matrix(([3.0, 1.0, 2.0], ([0, 0, 0], [0, 1, 2])), shape=(4, 4))
    transitions = TransitionsRetriever(weights, np.zeros(4))
    assert transitions.similar(0, 3).items_BK.tolist() == [[2, 1, NO_ITEM]]
    assert transitions.similar(0, 3).scores_BK.tolist() == [[2.0, 1.0, -np.inf]]
    assert transitions.similar(0, 3, ItemMask(np.array([True, True, False, True]))).items_BK.tolist() == [
        [1, NO_ITEM, NO_ITEM]
    ]
    assert transitions.similar(3, 1).items_BK.tolist() == [[NO_ITEM]]


def slow_transitions(world: World, history: list[int], excluded: list[int]) -> list[int]:
    """The definition, over the whole catalogue; scores are rounded as the retriever's float32 are."""
    popularity = {row["item_id"]: row["popularity"] for row in world.statistics.to_pylist()}
    ids = world.catalogue.item_ids.to_pylist()
    rows = zip(*(world.transitions[name].to_pylist() for name in world.transitions.column_names), strict=True)
    weight = {(a, b): value for a, b, value in rows}
    score = {
        b: sum(0.7**back * weight.get((ids[a], ids[b]), 0.0) for back, a in enumerate(reversed(history[-10:])))
        for b in range(ITEMS)
    }
    ranked = sorted(score, key=lambda b: (-np.float32(score[b]), -popularity.get(ids[b], 0.0), b))
    return [b for b in ranked if b not in excluded]


def test_transitions_equal_the_slow_reference_on_random_histories():
    world, rng = make_world(), np.random.default_rng(9)
    histories = [rng.integers(ITEMS, size=rng.integers(0, 15)).tolist() for _ in range(60)]
    excluded = [rng.integers(ITEMS, size=rng.integers(0, 6)).tolist() for _ in range(60)]
    found = RETRIEVERS["transitions"](world).retrieve(make_requests(histories, excluded), ITEMS)
    for history, out, items in zip(histories, excluded, found.items_BK, strict=True):
        assert items[items != NO_ITEM].tolist() == slow_transitions(world, history, out)


def test_built_from_a_workspace_equals_built_from_its_rows(tmp_path):
    world, workspace = make_world(), Workspace(tmp_path)
    rows = world.statistics.num_rows
    counts = ("impressions", "clicks", "carts", "purchases", "dislikes", "users")
    statistics = pa.table(
        {
            **{name: world.statistics[name] for name in world.statistics.column_names},
            **{name: np.zeros(rows, dtype=np.int64) for name in counts},
            "recent_popularity": np.zeros(rows),
            "first_time": np.zeros(rows, dtype="datetime64[ms]"),
            "last_time": np.zeros(rows, dtype="datetime64[ms]"),
        }
    )
    for name, table in (("item_statistics", statistics), ("transitions", world.transitions)):
        workspace.table(name).commit([workspace.table(name).write_part(table, shard=0)])
    requests = make_requests(HISTORIES, EXCLUDED)
    for cls, name in ((PopularRetriever, "popular"), (TransitionsRetriever, "transitions")):
        stored = cls.from_tables(workspace, world.catalogue).retrieve(requests, 6)
        assert stored.items_BK.tolist() == RETRIEVERS[name](world).retrieve(requests, 6).items_BK.tolist()


def test_transitions_refuse_wrong_weights():
    with pytest.raises(ValueError, match=r"expected shape \(3, 3\), got \(2, 2\)"):
        TransitionsRetriever(sp.csr_matrix(np.ones((2, 2))), np.zeros(3))
    with pytest.raises(ValueError, match="positive numbers, got -1"):
        TransitionsRetriever(sp.csr_matrix(([-1.0], ([0], [1])), shape=(2, 2)), np.zeros(2))
