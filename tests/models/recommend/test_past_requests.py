from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from features.schemas import CLICK, DISLIKE, EVENT_CODE, IMPRESSION, ITEMS, SEQUENCES, TEST, TRAIN
from features.semantic_ids import Catalogue
from models.recommend.config import RecommendConfig
from models.recommend.eligibility import Eligibility
from models.recommend.policy import NO_CHOICE, Policy
from models.recommend.recommender import Recommender
from models.recommend.requests import PastRequests
from models.recommend.retrievers import PopularRetriever
from models.recommend.rules import CatalogueFacts


def _row(user: str, split: str, items: list[str], events: list[str], times: list[int]) -> dict[str, object]:
    return {
        "user_id": user,
        "split": split,
        "page_ids": [f"{user}-{time}" for time in times],
        "page_times": times,
        "page_lengths": [1] * len(items),
        "items": items,
        "events": [EVENT_CODE[event] for event in events],
        "times": times,
    }


ROWS = [
    _row("ann", TRAIN, ["a", "b"], [CLICK, IMPRESSION], [10, 20]),
    _row("ann", TEST, ["c", "gone"], [DISLIKE, CLICK], [30, 40]),
    _row("bob", TRAIN, ["b"], [CLICK], [15]),
]


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return Catalogue(["a", "b", "c"], np.array([[0], [1], [2]]), (3,))


@pytest.fixture(scope="module")
def past(catalogue: Catalogue) -> PastRequests:
    return PastRequests(ds.dataset(pa.Table.from_pylist(ROWS, SEQUENCES)), catalogue)


def test_histories_lie_strictly_before_the_moment(past: PastRequests) -> None:
    requests = past.at(pa.array(["ann", "ann", "bob", "ann"]), np.array([10, 11, 100, 31]), 50)
    histories = np.split(requests.history_items, requests.history_offsets[1:-1])
    assert [items.tolist() for items in histories] == [[], [0], [1], [0, 2]]
    assert requests.history_times.tolist() == [10, 15, 10, 30]


def test_histories_do_not_hang_on_how_many_rows_are_read_at_a_time(
    catalogue: Catalogue, past: PastRequests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.recommend.requests._ROWS", 1)
    single = PastRequests(ds.dataset(pa.Table.from_pylist(ROWS, SEQUENCES)), catalogue)
    asked = pa.array(["ann", "bob"]), np.array([100, 100]), 50
    assert single.at(*asked).history_items.tolist() == past.at(*asked).history_items.tolist() == [0, 2, 1]
    assert single.nbytes == past.nbytes


def test_only_the_newest_entries_are_kept_and_nobody_has_none(past: PastRequests) -> None:
    requests = past.at(pa.array(["ann", "zoe"]), np.array([100, 100]), 1)
    assert requests.history_items.tolist() == [2]
    assert requests.history_offsets.tolist() == [0, 1, 1]


def test_given_candidates_take_the_place_of_what_is_available_now(catalogue: Catalogue, past: PastRequests) -> None:
    items = [{"item_id": name, "title": name, "available": name == "a"} for name in "abc"]
    facts = CatalogueFacts(pa.Table.from_pylist(items, ITEMS), catalogue)
    maker = Recommender(catalogue, [PopularRetriever(np.array([1.0, 2.0, 3.0]))], RecommendConfig(), facts)
    requests = past.at(pa.array(["bob"]), np.array([100]), 50)
    now = maker.ranked(requests, 3).fused.items_BF[0]
    then = maker.ranked(requests, 3, eligible=Eligibility.of([[False, True, True]], [0])).fused.items_BF[0]
    assert now[now >= 0].tolist() == [0]
    assert then[then >= 0].tolist() == [2]  # b was seen


def test_chances_along_a_page_are_those_of_its_draw() -> None:
    policy = Policy(epsilon=0.2, temperature=1.0)
    scores, there = np.log([[1.0, 3.0]]), np.ones((1, 2), dtype=bool)
    along = list(policy.along(scores, there, np.array([[1, 0, NO_CHOICE]])))
    assert along[0][0] == pytest.approx([0.8 * 0.25 + 0.1, 0.8 * 0.75 + 0.1])
    assert along[1][0] == pytest.approx([1.0, 0.0])
    assert along[2][0].tolist() == [0.0, 0.0]


def test_whoever_fills_the_slots_while_asking_draws() -> None:
    policy = Policy(epsilon=0.0, temperature=0.0)
    choice = np.full((1, 3), NO_CHOICE)
    for slot, chance in enumerate(policy.along(np.array([[1.0, 3.0, 2.0]]), np.ones((1, 3), dtype=bool), choice)):
        choice[:, slot] = chance.argmax(axis=1)
    assert choice.tolist() == [[1, 2, 0]]
