"""The trained ranker behind the `Ranker` protocol: the same numbers as in training, and safe with what is absent."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch
from recommend_cases import items_table, small_catalogue

from features.columns import Columns, IdColumn
from features.schemas import CLICK, EVENT_CODE
from models.inputs.items import item_columns
from models.ranker.calibration import Calibration
from models.ranker.config import RankerConfig
from models.ranker.data import RankerData, Sides
from models.ranker.examples import RankerExamples
from models.ranker.measure import predict
from models.ranker.model import UnifiedRanker
from models.recommend.growth import NewItems
from models.recommend.interface import NO_ITEM, RequestBatch
from models.recommend.model_ranker import ModelRanker

CONFIG = RankerConfig(rows=200, dimensions=4, exact_limit=3, deep_widths=(8,), attention_width=4, max_history=2)
ITEMS = item_columns(items_table())
DAY = 86_400_000


class Snapshots:
    """By day d, item n was clicked n * d / 10 times; the first request is on day 10, the second on day 11."""

    def at(self, items_n, times_n):
        return clicks(items_n * times_n / (10 * DAY))


def clicks(values):
    return Columns(rows=len(values), numbers={"item_clicks_7d": np.asarray(values, np.float32)})


def requests():
    """Two users: one with three clicks, one without any."""
    taste = IdColumn(
        hashes=ITEMS.ids["category"].hashes[:2], offsets=np.array([0, 2, 2]), weights=np.array([1, 2], np.float32)
    )
    columns = Columns(
        rows=2,
        ids={"category_affinity": taste, "user.plan": IdColumn.of_strings(pa.array(["gold", "free"]))},
        numbers={"median_price": np.array([12.0, np.nan], np.float32)},
    )
    return RequestBatch(
        user_ids=["ann", "bob"],
        times_B=np.array([10 * DAY, 11 * DAY]),
        history_items=np.array([3, 0, 1]),
        history_events=np.full(3, EVENT_CODE[CLICK], np.int8),
        history_times=np.array([1, 2, 3]) * DAY,
        history_offsets=np.array([0, 3, 3]),
        excluded_items=np.zeros(0, np.int64),
        excluded_offsets=np.zeros(3, np.int64),
        columns=columns,
    )


def examples():
    items = np.array([0, 2, 4, 1, 3])
    return RankerExamples(
        requests=requests(),
        items_R=items,
        offsets=np.array([0, 3, 5]),
        label_RH=np.zeros((5, 3), np.float32),
        rate_R=np.zeros(5, np.float32),
        drawn=False,
        dropped={},
    )


@pytest.fixture(scope="module")
def data():
    sides = Sides.of(examples(), ITEMS, Snapshots())
    return RankerData.of(CONFIG, sides.layout(CONFIG), examples(), sides)


@pytest.fixture(scope="module")
def model(data):
    torch.manual_seed(0)
    ranker = UnifiedRanker(CONFIG, data.layout)
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter.normal_(std=0.3)
    return ranker.eval()


@pytest.fixture(scope="module")
def ranker(model):
    return ModelRanker(model, Calibration(slopes=(0.5, 1, 2), intercepts=(0, -1, -2)), ITEMS, clicks(np.arange(6)))


ITEMS_BK = np.array([[0, 2, 4], [1, NO_ITEM, 3]])


def test_serving_sees_what_training_sees(ranker, model, data):
    calibrated = ranker.calibration.probabilities(predict(model, data, np.array([0, 1])))
    for row, (day, places) in enumerate(((10, slice(0, 3)), (11, slice(3, 5)))):
        one = np.array([row])
        of_the_day = ranker.with_item_features(clicks(np.arange(6) * day / 10))
        found = of_the_day.probabilities(requests().take(one), ITEMS_BK[one])
        np.testing.assert_allclose(found, calibrated[places], rtol=1e-5)


def test_requests_of_the_past_see_items_as_they_were(ranker, model, data):
    calibrated = ranker.calibration.probabilities(predict(model, data, np.array([0, 1])))
    past = ranker.with_item_features(clicks(np.full(6, 50))).with_snapshots(Snapshots())
    np.testing.assert_allclose(past.probabilities(requests(), ITEMS_BK), calibrated, rtol=1e-5)
    now = past.with_item_features(clicks(np.arange(6)))
    np.testing.assert_array_equal(now.score(requests(), ITEMS_BK), ranker.score(requests(), ITEMS_BK))


def test_the_score_is_what_the_events_are_worth(ranker):
    click, cart, purchase = ranker.probabilities(requests(), ITEMS_BK).T
    scores_BK = ranker.score(requests(), ITEMS_BK)
    assert scores_BK.dtype == np.float32
    np.testing.assert_allclose(scores_BK[ITEMS_BK != NO_ITEM], click + 2 * cart + 4 * purchase, rtol=1e-5)
    assert scores_BK[1, 1] == -np.inf


def test_a_request_is_scored_alike_in_any_company(ranker):
    together = ranker.score(requests(), ITEMS_BK)
    for row in range(2):
        alone = ranker.score(requests().take(np.array([row])), ITEMS_BK[[row]])
        np.testing.assert_allclose(alone[0], together[row], rtol=1e-5)


def test_nothing_to_score(ranker):
    assert (ranker.score(requests(), np.full((2, 3), NO_ITEM)) == -np.inf).all()
    assert ranker.score(requests(), np.zeros((2, 0), np.int64)).shape == (2, 0)


def test_requests_that_carry_nothing_are_scored_and_longer_histories_cut(ranker):
    bare = dataclasses.replace(requests(), columns=None)
    assert np.isfinite(ranker.score(bare, ITEMS_BK)[0]).all()
    cut = dataclasses.replace(
        requests(),
        history_items=np.array([0, 1]),
        history_events=np.full(2, EVENT_CODE[CLICK], np.int8),
        history_times=np.array([2, 3]) * DAY,
        history_offsets=np.array([0, 2, 2]),
    )
    np.testing.assert_array_equal(ranker.score(cut, ITEMS_BK), ranker.score(requests(), ITEMS_BK))


def test_item_features_are_refreshed_without_touching_the_ranker(ranker):
    before = ranker.score(requests(), ITEMS_BK)
    refreshed = ranker.with_item_features(clicks(np.full(6, 50)))
    assert not np.array_equal(refreshed.score(requests(), ITEMS_BK), before)
    np.testing.assert_array_equal(ranker.score(requests(), ITEMS_BK), before)
    again = refreshed.with_item_features(clicks(np.arange(6)))
    np.testing.assert_array_equal(again.score(requests(), ITEMS_BK), before)
    with pytest.raises(ValueError, match="expected one row per item, 6, got 2"):
        ranker.with_item_features(clicks([1, 2]))


def test_a_ranker_that_got_new_items_is_the_one_of_all_items(ranker, model):
    first, last = item_columns(items_table().slice(0, 4)), item_columns(items_table().slice(4))
    features = clicks(np.arange(6))
    small = ModelRanker(model, ranker.calibration, first, features.take(np.arange(4)))
    new = NewItems(
        catalogue=small_catalogue(), columns=last, vectors_MD=None, item_features=features.take(np.array([4, 5]))
    )
    np.testing.assert_allclose(
        small.with_new_items(new).score(requests(), ITEMS_BK), ranker.score(requests(), ITEMS_BK), rtol=1e-6
    )
    assert small.items.rows == 4
