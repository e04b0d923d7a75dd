"""Catalogue deltas on a real release with GenRec and a two-tower: what is appended is found, what is withdrawn gone."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import shutil
import time
import weakref
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from release_cases import DAY, DECODE, make_genrec, make_workspace
from release_cases import GENREC as GENREC_CONFIG

from features.schemas import ITEMS
from features.semantic_ids import Catalogue
from features.store.base import ItemFacts
from features.workspace import Workspace
from models.inputs.items import item_columns
from models.recommend.config import RecommendConfig
from models.recommend.delta_changes import append, carry_over, delta_lines, withdraw
from models.recommend.delta_files import Changes, DeltaError, deltas_folder, read_deltas, write_delta
from models.recommend.deltas import CatalogueState, caught_up
from models.recommend.genrec_retriever import GenRecRetriever
from models.recommend.interface import RequestBatch
from models.recommend.release import golden_requests, load_release, write_release
from models.recommend.release_parts import GENREC, TWO_TOWER, ReleaseConfig
from models.recommend.retrievers import PopularRetriever, TransitionsRetriever
from models.recommend.rules import Filters
from models.recommend.two_tower_retriever import TwoTowerRetriever
from models.recommend.vector_index import VectorIndex
from models.recommend.vector_index_config import HNSW, IndexConfig
from models.training.config import TrainConfig
from models.training.two_tower import load_two_tower, train_two_tower
from models.two_tower.config import TwoTowerConfig

TOWERS = TwoTowerConfig(
    hidden=(8,), item_dimensions=4, feature_dimensions=4, history_windows=(1,), batch_size=16, uniform_negatives=4
)
KITE = {"item_id": "n1", "title": "kite rope wind", "category": ["aisle0"], "brand": "nova", "price": 5.0}
BOARD = {"item_id": "n2", "title": "puzzle board dice", "category": ["aisle1"], "brand": "nova", "price": 6.0}
OLD = [f"i{n:02d}" for n in range(12)]
NOVA = Filters(brand="nova")
pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> tuple[Workspace, Path, Path]:
    """A workspace and two of its releases, which differ in the size of a page."""
    workspace = make_workspace(tmp_path_factory.mktemp("deltas") / "ws")
    towers = train_two_tower(workspace, TOWERS, TrainConfig(epochs=1, threads=1), seed=1, track=False)
    runs = {GENREC: make_genrec(workspace), TWO_TOWER: towers.run}
    releases = workspace.local_path("releases")
    made = [
        write_release(releases, workspace, config=ReleaseConfig(recommend=recommend, decode=DECODE), runs=runs)
        for recommend in (RecommendConfig(exclude_seen=False), RecommendConfig(exclude_seen=False, page_size=5))
    ]
    return workspace, *(releases / manifest.release_id for manifest in made)


@pytest.fixture
def release(shop, tmp_path) -> Path:
    """A copy without deltas."""
    return shutil.copytree(shop[1], tmp_path / shop[1].name)


@pytest.fixture
def other(shop, tmp_path) -> Path:
    return shutil.copytree(shop[2], tmp_path / shop[2].name)


@pytest.fixture(scope="module")
def requests(shop) -> RequestBatch:
    workspace, folder, _ = shop
    return golden_requests(workspace, load_release(folder).recommender.catalogue)


def items(*rows: dict) -> pa.Table:
    return pa.Table.from_pylist(list(rows), ITEMS)


def state_of(release: Path) -> CatalogueState:
    state, error = caught_up(CatalogueState.of(load_release(release)))
    assert error is None
    return state


def pages_of(state: CatalogueState, requests: RequestBatch, wanted: Filters | None = None) -> list[list[str]]:
    filters = [wanted] * len(requests)
    return [page.items for page in state.recommender.pages(requests, 50, filters=filters)]


def test_new_items_are_found_by_every_retriever_that_can_know_them(release, requests):
    report = append(release, items(KITE, BOARD))
    assert (report.delta.number, report.delta.appended, report.already) == (1, 2, 0)
    state = state_of(release)
    assert state.recommender.catalogue.item_ids.to_pylist() == [*OLD, "n1", "n2"]
    pages = state.recommender.pages(requests, filters=[NOVA] * len(requests))
    assert {frozenset(page.items) for page in pages} == {frozenset({"n1", "n2"})}
    *known, stranger = pages
    assert {source for page in known for part in page.parts for source, share in part.items() if share > 0} == {
        "genrec",
        "two_tower",
        "popular",
    }
    assert stranger.fallback == "popular"
    assert {frozenset(page) for page in pages_of(state, requests)} == {frozenset([*OLD, "n1", "n2"])}


def test_the_page_maker_is_the_one_that_would_be_built_anew(release, requests):
    append(release, items(BOARD, KITE))
    maker, parts = state_of(release).recommender, Workspace(release)
    catalogue, run = maker.catalogue, load_release(release).manifest.runs[TWO_TOWER]
    towers, _ = load_two_tower(parts, run)
    columns = item_columns(maker.facts.table)
    towers.know_items(catalogue.item_ids, columns)
    vectors_ND = towers.item_vectors(columns)
    anew = [
        GenRecRetriever(maker.retrievers["genrec"].model, catalogue, DECODE),
        TransitionsRetriever.from_tables(parts, catalogue),
        TwoTowerRetriever.build(towers, vectors_ND, catalogue.item_ids, catalogue, IndexConfig()),
        PopularRetriever.from_tables(parts, catalogue),
    ]
    for expected in anew:
        wanted, found = (part.retrieve(requests, 14) for part in (expected, maker.retrievers[expected.name]))
        assert found.items_BK.tolist() == wanted.items_BK.tolist()
        np.testing.assert_allclose(found.scores_BK, wanted.scores_BK, rtol=1e-5)


def test_the_state_before_stays_as_it_is(release, requests):
    before = state_of(release)
    pages = pages_of(before, requests)
    append(release, items(KITE))
    withdraw(release, ["i03"])
    after, _ = caught_up(before)
    assert after.delta == 2
    assert pages_of(before, requests) == pages
    assert caught_up(after)[0] is after


def test_withdrawn_items_are_in_no_page_and_not_similar_until_they_are_appended_again(release, requests):
    state = state_of(release)
    (row,) = (row for row in state.recommender.facts.table.to_pylist() if row["item_id"] == "i02")
    assert state.recommender.similar("i00", 5, 9 * DAY)[0][0] == "i02"
    report = withdraw(release, ["i02", "i02"])
    assert report.delta.withdrawn == 1
    state, _ = caught_up(state)
    assert not any("i02" in page for page in pages_of(state, requests))
    assert state.recommender.similar("i00", 5, 9 * DAY) == []
    assert withdraw(release, ["i02"]).delta is None
    assert append(release, items(row)).delta.returned == 1
    assert all("i02" in page for page in pages_of(state_of(release), requests))


def test_neither_store_nor_tables_change_what_deltas_say(release, requests):
    append(release, items(KITE))
    withdraw(release, ["i02"])
    facts = [ItemFacts(item_id=item, title="x", brand="acme") for item in [*OLD, "n1"]]
    fresh = state_of(release).with_fresh_items(facts, None)
    assert set(pages_of(fresh, requests, Filters(brand="acme"))[0]) == {*OLD} - {"i02"}
    assert pages_of(fresh, requests, NOVA)[0] == ["n1"]


def test_appending_the_same_rows_again_changes_nothing_other_facts_do(release, shop, requests):
    workspace, codes = shop[0], state_of(release).recommender.catalogue.codes_NL
    rows = workspace.table("clean_items").read()
    assert append(release, rows, workspace).delta is None
    append(release, items(KITE))
    again = append(release, items(KITE))
    assert (again.delta, again.already) == (None, 1)
    assert again.lines() == [f"release {release.name}: nothing to change, 1 items are so already"]
    cheaper = {**rows.to_pylist()[4], "price": 0.5}
    assert append(release, items({**KITE, "price": 0.25}, cheaper), workspace).delta.changed == 2
    state = state_of(release)
    assert set(pages_of(state, requests, Filters(max_price=0.5))[0]) == {"i04", "n1"}
    assert state.recommender.catalogue.codes_NL[:12].tolist() == codes.tolist()


def test_deltas_taken_one_by_one_come_to_the_same_as_all_at_once(release, requests):
    state = CatalogueState.of(load_release(release))
    for change in (
        lambda: append(release, items(KITE)),
        lambda: withdraw(release, ["n1", "i05", "i07"]),
        lambda: append(release, items(BOARD, KITE)),
        lambda: append(release, items({**BOARD, "price": 1.0})),
        lambda: withdraw(release, ["n2"]),
    ):
        change()
        state, _ = caught_up(state)
    at_once = state_of(release)
    assert at_once.delta == state.delta == 5
    assert at_once.own_N.tolist() == state.own_N.tolist() == [item in ("i05", "i07") for item in OLD] + [True, True]
    assert at_once.recommender.facts.table.equals(state.recommender.facts.table)
    assert pages_of(at_once, requests) == pages_of(state, requests)
    assert set(pages_of(state, requests)[0]) == {*OLD, "n1"} - {"i05", "i07"}


def test_a_damaged_delta_is_refused_and_those_before_it_are_taken(release):
    append(release, items(KITE))
    append(release, items(BOARD))
    withdraw(release, ["i00"])
    damaged = deltas_folder(release) / "000002" / "items.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    state, error = caught_up(CatalogueState.of(load_release(release)))
    assert state.delta == 1
    assert "000002 cannot be used: items.parquet has digest" in str(error)
    with pytest.raises(DeltaError, match="000002 cannot be used"):
        withdraw(release, ["i01"])
    assert "000002 cannot be used" in delta_lines(release)[-1]
    shutil.rmtree(damaged.parent)
    _, error = caught_up(state)
    assert "expected delta 2 of release" in str(error)
    assert "got delta 3" in str(error)


def test_whole_files_that_do_not_fit_the_release_are_refused(release):
    append(release, items(KITE))
    (delta,), _ = read_deltas(release)
    shutil.rmtree(deltas_folder(release))
    short = dataclasses.replace(delta.changes, vectors_MD=delta.changes.vectors_MD[:, :4])
    write_delta(release, delta.manifest, short)
    before = CatalogueState.of(load_release(release))
    after, error = caught_up(before)
    assert after is before
    assert "delta 1 of release" in str(error)
    assert "got 4" in str(error)


def test_deltas_before_one_that_does_not_fit_are_taken(release):
    withdraw(release, ["i05"])
    append(release, items(KITE))
    (first, second), _ = read_deltas(release)
    shutil.rmtree(deltas_folder(release) / "000002")
    short = dataclasses.replace(second.changes, vectors_MD=second.changes.vectors_MD[:, :4])
    write_delta(release, second.manifest, short)
    after, error = caught_up(CatalogueState.of(load_release(release)))
    assert (after.delta, after.digest) == (1, first.digest)
    assert "delta 2 of release" in str(error)
    assert not after.recommender.facts.available_N[5]


def test_a_state_that_is_replaced_goes_at_once(release, requests):
    """Without waiting for the garbage collector, which a service of few new objects seldom runs in full."""
    state, gone = state_of(release), []
    gc.collect()
    gc.disable()
    try:
        for change in (items(KITE), ["i05"], items(BOARD)):
            pages_of(state, requests, Filters(max_price=9))
            maker = state.recommender
            gone += [weakref.ref(part) for part in (maker, maker.facts, maker.facts.mask(DAY))]
            gone += [] if isinstance(change, list) else [weakref.ref(maker.catalogue)]
            (withdraw if isinstance(change, list) else append)(release, change)
            state, error = caught_up(state)
            assert error is None
            del maker
        assert [part() for part in gone] == [None] * len(gone)
    finally:
        gc.enable()


def test_half_a_delta_does_not_exist_and_a_number_is_taken_once(release):
    append(release, items(KITE))
    (delta,), _ = read_deltas(release)
    with pytest.raises(DeltaError, match="000001 is there already"):
        write_delta(release, delta.manifest, delta.changes)
    assert [path.name for path in deltas_folder(release).iterdir()] == ["000001"]
    (deltas_folder(release) / "000001" / "manifest.json").unlink()
    assert read_deltas(release) == ([], None)


def test_a_delta_of_another_release_is_refused(release, other):
    append(release, items(KITE))
    shutil.copytree(deltas_folder(release), deltas_folder(other))
    _, error = caught_up(CatalogueState.of(load_release(other)))
    assert f"expected delta 1 of release {other.name}" in str(error)


def test_unknown_ids_are_told_and_nothing_but_unknown_ids_is_a_mistake(release):
    report = withdraw(release, ["i01", "zz"])
    assert report.unknown == ("zz",)
    assert report.lines()[-1] == "1 ids are not in the release, nothing was withdrawn for them: 'zz'"
    with pytest.raises(ValueError, match=rf"expected ids of release {release.name}, got zz"):
        withdraw(release, ["zz"])
    with pytest.raises(ValueError, match="expected distinct item_id"):
        append(release, items(KITE, KITE))


def test_what_a_killed_writer_left_is_removed_by_a_later_one(release):
    folder = deltas_folder(release)
    left, fresh = folder / ".writing-left", folder / ".writing-fresh"
    for writing in (left, fresh):
        writing.mkdir(parents=True)
        (writing / "items.parquet").write_bytes(b"half")
    an_hour_ago = time.time() - 3601
    os.utime(left, (an_hour_ago, an_hour_ago))
    withdraw(release, ["i01"])
    assert sorted(path.name for path in folder.iterdir()) == [".writing-fresh", "000001"]


def test_another_release_takes_over_what_it_does_not_know(release, other, requests):
    append(release, items(KITE, BOARD))
    append(release, items({"item_id": "i04", "title": "changed here only", "price": 77.0}))
    withdraw(release, ["i05", "n2"])
    assert carry_over(release, other)[0] == (
        f"release {other.name}, delta 1: 1 items appended, 0 changed, 0 back again, 1 withdrawn, carried over from "
        f"release {release.name}"
    )
    assert carry_over(release, other) == carry_over(other, release) == []
    state = state_of(other)
    assert set(pages_of(state, requests)[0]) == {*OLD, "n1"} - {"i05"}
    assert pages_of(state, requests, Filters(min_price=77.0))[0] == []  # facts are those of its own tables
    assert json.loads((deltas_folder(other) / "000001" / "manifest.json").read_text())["carried_from"] == release.name


def test_the_later_word_counts_when_a_release_takes_over(release, other, requests):
    five = {"item_id": "i05", "title": "puzzle board model0", "category": ["aisle1"], "price": 6.0}
    withdraw(release, ["i05"])
    carry_over(release, other)
    append(other, items(five))
    assert "1 back again" in carry_over(other, release)[0]
    assert "i05" in pages_of(state_of(release), requests)[0]
    assert carry_over(release, other) == []
    assert "i05" in pages_of(state_of(other), requests)[0]


def test_new_items_of_one_id_come_behind_the_others():
    before = Catalogue(["a", "b"], np.array([[1, 0], [1, 0]]), (2, 2), np.array([1.0, 2.0]))
    after = before.with_new_items(pa.array(["c", "d"]), np.array([[1, 0], [0, 1]]))
    assert after.sids_SL.tolist() == [[0, 1], [1, 0]]
    assert after.items.tolist() == [3, 1, 0, 2]
    assert after.numbers(["a", "b", "c", "d"]).tolist() == [0, 1, 2, 3]
    assert before.items.tolist() == [1, 0]


@pytest.mark.parametrize("kind", ["flat", HNSW])
def test_an_index_finds_what_was_added(kind):
    vectors_ND = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    index = VectorIndex.build(vectors_ND[:30], IndexConfig(kind=kind))
    larger = index.with_added(vectors_ND[30:])
    assert (len(index), len(larger)) == (30, 40)
    assert larger.search(vectors_ND, 1)[0][:, 0].tolist() == list(range(40))
    with pytest.raises(ValueError, match="expected width 8, that of the index, got 3"):
        index.with_added(np.eye(3, dtype=np.float32))


def test_changes_of_nothing_keep_the_width_of_codes():
    none = Changes(
        items=items(),
        new_ids=pa.array([], pa.string()),
        codes_ML=np.zeros((0, 0), np.int32),
        content_MV=np.zeros((0, 0), np.float32),
        vectors_MD=None,
        withdrawn=pa.array(["a"]),
    )
    one = dataclasses.replace(
        none,
        items=items(KITE),
        new_ids=pa.array(["n1"]),
        codes_ML=np.array([[1, 2]], np.int32),
        content_MV=np.array([[3, 4, 5]], np.float32),
    )
    for both in (none.then(one), one.then(none)):
        assert both.codes_ML.tolist() == [[1, 2]]
        assert both.content_MV.tolist() == [[3, 4, 5]]
        assert both.withdrawn.to_pylist() == ["a"]


def test_a_genrec_with_an_item_head_tells_new_items_apart_by_their_vectors(shop, tmp_path, requests):
    workspace, _, _ = shop
    config = dataclasses.replace(GENREC_CONFIG, item_vectors=True, item_head=1.0)
    run = make_genrec(workspace, config=config)
    folder = write_release(tmp_path, workspace, config=ReleaseConfig(decode=DECODE), runs={GENREC: run})
    release = tmp_path / folder.release_id
    append(release, items(KITE, BOARD))
    state = state_of(release)
    catalogue = state.recommender.catalogue
    width = len(catalogue.item_vectors[0])
    assert catalogue.item_vectors.shape == (14, width)
    assert not np.allclose(catalogue.item_vectors[12], catalogue.item_vectors[13])
    genrec = state.recommender.retrievers["genrec"]
    found = genrec.retrieve(requests, 14)
    assert {frozenset(row.tolist()) for row in found.items_BK} == {frozenset(range(14))}
    anew = GenRecRetriever(genrec.model, catalogue, DECODE).retrieve(requests, 14)
    np.testing.assert_array_equal(found.items_BK, anew.items_BK)
