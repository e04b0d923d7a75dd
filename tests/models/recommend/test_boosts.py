from __future__ import annotations

import dataclasses
import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from recommend_cases import DAY, NOON, ListRetriever, batch, small_catalogue, small_facts
from release_cases import make_release, make_workspace

from features.schemas import ITEMS
from features.semantic_ids import Catalogue
from models.recommend.boosts import Boosts, items_of
from models.recommend.boosts_config import Boost, boosts_of
from models.recommend.config import RecommendConfig
from models.recommend.fusion import Fused
from models.recommend.interface import NO_ITEM
from models.recommend.recommender import Recommender, request_seeds
from models.recommend.release import golden_requests, load_release
from models.recommend.rules import CatalogueFacts
from pagewise.configuration import build, from_overrides

GENREC = ListRetriever("genrec", [2, 1, 5])
POPULAR = ListRetriever("popular", [3, 0, 1, 2, 4, 5])


def recommender(*boosts: dict[str, Any], **options: Any) -> Recommender:
    return Recommender(small_catalogue(), (GENREC, POPULAR), RecommendConfig(boosts=boosts, **options), small_facts())


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({"category": "toys"}, [0, 1, 2]),
        ({"category": "outdoor"}, [0, 1]),
        ({"brand": "bolt"}, [1, 4, 5]),
        ({"brand": "bolt", "category": "books"}, [4, 5]),
        ({"items": ["i3", "i9", "i0"]}, [0, 3]),
        ({"items": []}, []),
        ({"brand": "nobody"}, []),
        ({"attribute": "color=red"}, []),
    ],
)
def test_an_item_must_fulfil_all_conditions(conditions, expected):
    boost = Boost.from_document({**conditions, "factor": 2})
    assert np.flatnonzero(items_of(boost, small_facts())).tolist() == expected


def test_attributes_are_compared_whole_and_values_may_hold_equals_signs():
    rows = [
        {"item_id": "i0", "title": "a", "attributes": [("color", "red"), ("size", "a=b")]},
        {"item_id": "i1", "title": "b", "attributes": [("color", "redder")]},
        {"item_id": "i2", "title": "c", "attributes": None},
    ]
    facts = CatalogueFacts(pa.Table.from_pylist(rows, ITEMS), small_catalogue())
    for attribute, expected in (("color=red", [0]), ("size=a=b", [0]), ("color=", []), ("=red", [])):
        boost = Boost(attribute=attribute, factor=2.0)
        assert np.flatnonzero(items_of(boost, facts)).tolist() == expected, attribute


def test_a_boost_changes_score_order_and_explanation():
    plain = recommender().pages(batch([[0]]), page_size=3)[0]
    page = recommender({"category": "books", "factor": 3.0}, {"brand": "bolt", "addend": -0.5}).pages(
        batch([[0]]), page_size=3
    )[0]
    was = dict(zip(plain.items, plain.scores, strict=True))
    # i1 is of bolt, i3 a book, i2 neither
    assert dict(zip(page.items, page.scores, strict=True)) == pytest.approx(
        {"i1": was["i1"] - 0.5, "i2": was["i2"], "i3": 3 * was["i3"]}
    )
    assert plain.items == ["i2", "i1", "i3"]
    assert page.items == ["i2", "i1", "i3"]
    parts = dict(zip(page.items, page.parts, strict=True))
    assert [parts[item]["boost"] for item in ("i1", "i2", "i3")] == pytest.approx([-0.5, 0.0, 2 * was["i3"]])
    for part, score in zip(page.parts, page.scores, strict=True):
        assert sum(part.values()) == pytest.approx(score)
    assert page.sources == plain.sources
    first = recommender({"items": ["i3"], "addend": 1}).pages(batch([[0]]), page_size=1)[0]
    assert first.items == ["i3"]


def test_the_order_that_is_measured_is_the_boosted_one():
    page, fusion = recommender({"items": ["i3"], "addend": 1}).orders(batch([[0]]), 3)
    assert page.items_BK.tolist() == [[3, 2, 1]]
    assert fusion.items_BK.tolist() == [[2, 1, 3]]


@pytest.mark.parametrize("documents", [[{"category": "toys", "factor": 1}], [{"new_days": 3, "addend": 0}]])
@pytest.mark.parametrize("options", [{}, {"epsilon": 0.4, "temperature": 0.2, "max_per_brand": 1, "diversity": 0.3}])
def test_boosts_that_change_nothing_leave_pages_as_they_are(documents, options):
    histories, seeds_B = [[0], [], [2, 1]] * 20, request_seeds([f"r{n}" for n in range(60)])
    plain = recommender(**options).pages(batch(histories), 3, seeds_B)
    pages = recommender(*documents, **options).pages(batch(histories), 3, seeds_B)
    assert all(part.pop("boost") == 0.0 for page in pages for part in page.parts)
    assert pages == plain


def test_items_are_new_for_some_days_from_the_moment_of_the_request():
    noon = datetime.fromtimestamp(NOON / 1000, UTC)
    ages = [None, 0.0, 1.5, 2.0, -1.0, 400.0]
    rows = [
        {
            "item_id": f"i{n}",
            "title": "x",
            "available_from": None if age is None else noon - timedelta(days=age),
        }
        for n, age in enumerate(ages)
    ]
    facts = CatalogueFacts(pa.Table.from_pylist(rows, ITEMS), small_catalogue())
    fused = fused_of(np.arange(6)[None].repeat(2, axis=0), np.zeros((2, 6)))
    boosted = Boosts([Boost(new_days=2, addend=1.0)], facts)(fused, np.array([NOON, NOON + 2 * DAY]))
    # two days on, only the item of tomorrow is new
    for row, new in enumerate(({1, 2}, {4})):
        scores = dict(zip(boosted.items_BF[row].tolist(), boosted.scores_BF[row].tolist(), strict=True))
        assert {item for item, score in scores.items() if score == 1.0} == new
        assert set(scores.values()) == {0.0, 1.0}


def fused_of(items_BF: np.ndarray, scores_BF: np.ndarray) -> Fused:
    scores_BF = scores_BF.astype(np.float32)
    return Fused(
        items_BF=items_BF,
        scores_BF=scores_BF,
        parts_BFR=scores_BF[..., None],
        sources=("popular",),
        named_BF=np.zeros(items_BF.shape, np.int64),
    )


def slow_score(score: float, item: dict[str, Any], time: int, documents: list[dict[str, Any]]) -> float:
    """Boosts word by word: all factors, then all addends."""
    factor, addend = 1.0, 0.0
    for boost in documents:
        since = None if item["available_from"] is None else time - item["available_from"].timestamp() * 1000
        name, _, value = boost.get("attribute", "").partition("=")
        holds = (
            ("category" not in boost or boost["category"] in (item["category"] or []))
            and ("brand" not in boost or item["brand"] == boost["brand"])
            and ("items" not in boost or item["item_id"] in boost["items"])
            and ("attribute" not in boost or dict(item["attributes"] or {}).get(name) == value)
            and ("new_days" not in boost or (since is not None and 0 <= since < boost["new_days"] * DAY))
        )
        if holds:
            factor *= boost.get("factor", 1.0)
            addend += boost.get("addend", 0.0)
    return score * factor + addend


@pytest.mark.parametrize("seed", range(15))
def test_boosted_scores_equal_the_slow_reference(seed):
    rng = np.random.default_rng(seed)
    items = int(rng.integers(1, 30))
    noon = datetime.fromtimestamp(NOON / 1000, UTC)
    rows = [
        {
            "item_id": f"i{n}",
            "title": "x",
            "category": [None, [], ["a"], ["a", "b"]][rng.integers(4)],
            "brand": [None, "x", "y"][rng.integers(3)],
            "attributes": [None, [("color", "red")], [("color", "blue"), ("size", "s")]][rng.integers(3)],
            "available_from": None if rng.random() < 0.3 else noon - timedelta(hours=int(rng.integers(0, 200))),
        }
        for n in range(items)
    ]
    choices = {
        "category": ["a", "b", "z"],
        "brand": ["x", "y"],
        "attribute": ["color=red", "size=s"],
        "new_days": [0.5, 2, 7],
        "items": [[f"i{n}" for n in rng.integers(0, 40, 10)]],
    }
    documents = []
    for _ in range(int(rng.integers(1, 6))):
        names = rng.choice(list(choices), size=int(rng.integers(1, 3)), replace=False).tolist()
        document = {name: choices[name][rng.integers(len(choices[name]))] for name in names}
        effect, value = [("factor", rng.uniform(0, 3)), ("addend", rng.uniform(-2, 2))][rng.integers(2)]
        documents.append(document | {effect: float(value)})
    catalogue = Catalogue([row["item_id"] for row in rows], np.zeros((items, 1), np.int64), (1,))
    boosts = Boosts(boosts_of(documents), CatalogueFacts(pa.Table.from_pylist(rows, ITEMS), catalogue))
    size, width = int(rng.integers(1, 4)), items + 2
    items_BF = np.full((size, width), NO_ITEM)
    for row in range(size):
        count = int(rng.integers(0, items + 1))
        items_BF[row, :count] = rng.permutation(items)[:count]
    scores_BF = np.where(items_BF == NO_ITEM, 0, -np.sort(-rng.random((size, width)), axis=1))
    times_B = NOON + rng.integers(0, 3 * DAY, size)
    boosted = boosts(fused_of(items_BF, scores_BF), times_B)
    assert boosted.sources == ("popular", "boost")
    for row in range(size):
        expected = {
            int(item): slow_score(float(np.float32(score)), rows[item], int(times_B[row]), documents)
            for item, score in zip(items_BF[row], scores_BF[row], strict=True)
            if item != NO_ITEM
        }
        there = boosted.items_BF[row] != NO_ITEM
        found = dict(zip(boosted.items_BF[row, there].tolist(), boosted.scores_BF[row, there].tolist(), strict=True))
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)
        assert (np.diff(boosted.scores_BF[row, there]) <= 0).all()
    np.testing.assert_allclose(boosted.parts_BFR.sum(axis=2), boosted.scores_BF, atol=1e-6)
    assert not boosted.parts_BFR[boosted.items_BF == NO_ITEM].any()


def test_equal_scores_keep_their_order():
    fused = fused_of(np.array([[4, 0, 1, 3]]), np.array([[0.9, 0.5, 0.5, 0.4]]))
    boosts = Boosts(boosts_of([{"items": ["i3"], "factor": 1.25}, {"items": ["i4"], "factor": 0}]), small_facts())
    boosted = boosts(fused, np.array([NOON]))
    assert boosted.items_BF.tolist() == [[0, 1, 3, 4]]
    assert boosted.scores_BF[0].tolist() == pytest.approx([0.5, 0.5, 0.5, 0.0])


def test_page_makers_with_the_same_facts_share_what_was_worked_out():
    maker = recommender({"brand": "bolt", "factor": 2})
    assert maker.with_parts(retrievers=[POPULAR]).boosts is maker.boosts
    assert maker.with_parts(facts=small_facts()).boosts is not maker.boosts
    assert recommender().boosts is None


def test_a_popular_list_that_stands_in_is_boosted_too():
    page = recommender({"items": ["i2"], "addend": 5}).pages(batch([[]]), page_size=2)[0]
    assert (page.items, page.fallback) == (["i2", "i3"], "popular")


def test_settings_from_the_command_line_and_from_a_stored_release_are_one():
    text = "boosts=[{brand: acme, new_days: 7, factor: 1.5}, {items: [1, i2], addend: -0.2}]"
    config = build(RecommendConfig, [from_overrides([text])])
    assert config.boost_rules == (
        Boost(brand="acme", new_days=7.0, factor=1.5),
        Boost(items=frozenset({"1", "i2"}), addend=-0.2),
    )
    assert RecommendConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_a_file_of_items_is_read_when_the_release_is_made(tmp_path):
    path = tmp_path / "ids.txt"
    config = RecommendConfig(boosts=({"items_file": str(path), "factor": 2},))
    with pytest.raises(FileNotFoundError, match=r"items_file .*ids\.txt: expected a file with an item id per line"):
        config.self_contained()
    path.write_text("i3\n\n i4 \n")
    assert config.self_contained() == RecommendConfig(boosts=({"factor": 2, "items": ["i3", "i4"]},))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"ids\.txt: expected UTF-8 text"):
        config.self_contained()
    assert RecommendConfig().self_contained() == RecommendConfig()


def test_a_release_is_served_as_it_was_set(tmp_path):
    workspace = make_workspace(tmp_path / "ws")
    releases = workspace.local_path("releases")
    config = {"boosts": ({"category": "aisle1", "addend": 3.0},), "diversity": 0.25, "max_per_category": 4}
    release = load_release(releases / make_release(releases, workspace, None, **config).release_id)
    maker = release.recommender
    assert maker.config == RecommendConfig(**config)
    assert maker.policy.name.endswith("category<=4,diversity=0.25")
    for page in maker.pages(golden_requests(workspace, maker.catalogue)):
        for item, part in zip(page.items, page.parts, strict=True):
            assert part["boost"] == pytest.approx(3.0 * (int(item[1:]) % 2))


def test_all_mistakes_are_named():
    with pytest.raises(ValueError, match="page_size: expected at least 1, got 0; ") as caught:
        RecommendConfig(
            page_size=0,
            boosts=(
                {"brnd": "acme", "factor": 2},
                {"factor": 2, "addend": 1},
                {"brand": "acme", "factor": -1},
                {"brand": "acme"},
                {"category": ["toys"], "new_days": "soon", "addend": True},
                {"new_days": 0, "attribute": "red", "addend": math.nan},
                {"items": "ids.txt", "factor": 2},
                {"items": [], "items_file": "ids.txt", "factor": 2},
                {"items_file": 3, "factor": 2},
            ),
        )
    message = str(caught.value)
    for mistake in (
        "boosts[0]: unknown 'brnd', expected some of category, brand, items, attribute, new_days, factor, addend, item",
        "boosts[1]: expected a condition, one or more of category, brand, items, attribute, new_days, got none",
        "boosts[1]: expected either factor or addend, got factor=2.0, addend=1.0",
        "boosts[2]: factor: expected a finite number >= 0, got -1.0",
        "boosts[3]: expected either factor or addend, got factor=None, addend=None",
        "boosts[4]: category: expected a text, got ['toys']",
        "boosts[4]: new_days: expected a number, got 'soon'",
        "boosts[4]: addend: expected a number, got True",
        "boosts[5]: addend: expected a finite number, got nan",
        "boosts[5]: new_days: expected a finite number > 0, got 0.0",
        "boosts[5]: attribute: expected name=value, for example color=red, got 'red'",
        "boosts[6]: items: expected a list of item ids, got 'ids.txt' (a file of ids is items_file)",
        "boosts[7]: expected either items or items_file, got both",
        "boosts[8]: items_file: expected a path, got 3",
    ):
        assert mistake in message


def test_boosts_together_stay_within_what_a_score_can_hold():
    boosts = tuple({"brand": "acme", "factor": 1000} for _ in range(3))
    with pytest.raises(ValueError, match=r"expected that factors multiply to 1e\+06 at most, got 1e\+09"):
        RecommendConfig(boosts=boosts)
    with pytest.raises(ValueError, match=r"expected that addends sum up to 1e\+06 at most, got 2e\+06"):
        RecommendConfig(boosts=({"brand": "acme", "addend": -2e6},))


def test_learned_scores_take_no_factors():
    boosts = ({"brand": "acme", "addend": 1}, {"brand": "bolt", "factor": 2})
    with pytest.raises(
        ValueError, match=r"boosts\[1\]: expected an addend, since scores of fusion='learned'.*factor=2"
    ):
        RecommendConfig(fusion="learned", boosts=boosts)
    RecommendConfig(fusion="learned", boosts=boosts[:1])
