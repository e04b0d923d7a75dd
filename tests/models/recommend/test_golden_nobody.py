"""Golden requests are nobody's: dealt anew from real ones."""

import numpy as np

from features.columns import Columns, IdColumn
from models.recommend.golden import nobodys
from models.recommend.interface import RequestBatch

HOUR = 3_600_000


def real_requests(rng, size):
    lengths = rng.integers(0, 6, size)
    offsets = np.append(0, np.cumsum(lengths))
    times_B = rng.integers(100 * HOUR, 200 * HOUR, size)
    rows = np.repeat(np.arange(size), lengths)
    history_times = times_B[rows] - rng.integers(1, 50 * HOUR, offsets[-1])
    order = np.lexsort((history_times, rows))
    return RequestBatch(
        user_ids=[f"person {row}" for row in range(size)],
        times_B=times_B,
        history_items=np.arange(offsets[-1]),
        history_events=rng.integers(1, 4, offsets[-1]).astype(np.int8),
        history_times=history_times[order],
        history_offsets=offsets,
        excluded_items=np.zeros(0, np.int64),
        excluded_offsets=np.zeros(size + 1, np.int64),
        columns=Columns(
            rows=size,
            ids={"user.town": IdColumn(hashes=np.arange(size, dtype=np.uint64), offsets=np.arange(size + 1))},
            numbers={"user_clicks_1d": np.arange(size, dtype=np.float32)},
        ),
    )


def test_what_they_hold_is_the_same_and_whose_it_was_is_gone():
    requests = real_requests(np.random.default_rng(3), 40)
    made = nobodys(requests)
    assert not set(made.user_ids) & set(requests.user_ids)
    assert sorted(made.history_items) == sorted(requests.history_items)
    assert sorted(made.history_events) == sorted(requests.history_events)
    np.testing.assert_array_equal(made.history_offsets, requests.history_offsets)
    assert sorted(made.columns.numbers["user_clicks_1d"]) == list(range(40))
    # entries, towns and counts went their own ways
    assert (made.history_items == requests.history_items).mean() < 0.2
    assert (made.columns.ids["user.town"].hashes == requests.columns.ids["user.town"].hashes).mean() < 0.2
    assert (made.columns.numbers["user_clicks_1d"] == made.columns.ids["user.town"].hashes).mean() < 0.2


def test_histories_stay_in_order_and_before_the_request():
    made = nobodys(real_requests(np.random.default_rng(4), 30))
    rows = np.repeat(np.arange(30), np.diff(made.history_offsets))
    assert (made.history_times < made.times_B[rows]).all()
    assert not (made.times_B % HOUR).any()
    same = rows[1:] == rows[:-1]
    assert (np.diff(made.history_times)[same] >= 0).all()


def test_the_same_requests_are_dealt_alike():
    requests = real_requests(np.random.default_rng(5), 10)
    np.testing.assert_array_equal(nobodys(requests).history_items, nobodys(requests).history_items)
