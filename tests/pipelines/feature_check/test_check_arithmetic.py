"""The arithmetic of the check: differences, histograms and their index, what a state lacks, parts and the whole."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from features.columns import Columns, IdColumn
from features.definitions import FEATURES
from features.events import Events, ItemKeys
from features.schemas import ITEMS, TIMESTAMP
from features.stream.records import position_of
from pipelines.feature_check.comparing import defaults, differences
from pipelines.feature_check.config import FeatureCheckConfig
from pipelines.feature_check.drift import BINS, bins_of, chance, histogram, stability_index
from pipelines.feature_check.findings import Findings, Tally, span_quantile, spans
from pipelines.feature_check.moments import AHEAD, BEHIND, CURRENT, LATE, MISSING, NEVER, Arrivals, Moments

NAMED = {feature.name: feature for feature in FEATURES}
NO_KEYS = ItemKeys.of_items(pa.Table.from_pylist([], schema=ITEMS))


def ids(*rows: list[int], weights: list[list[float]] | None = None) -> IdColumn:
    flat = [value for row in rows for value in row]
    return IdColumn(
        hashes=np.array(flat, np.uint64),
        offsets=np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64),
        weights=None if weights is None else np.array([one for row in weights for one in row], np.float32),
    )


def of_ids(name: str, column: IdColumn) -> Columns:
    return Columns(rows=len(column), ids={name: column})


def of_numbers(name: str, *values: float) -> Columns:
    return Columns(rows=len(values), numbers={name: np.array(values, np.float32)})


def test_numbers_differ_by_more_than_rounding() -> None:
    name = "median_price"
    served = of_numbers(name, 1.0, 1.0, math.nan, math.nan, 1e6, 3.0)
    batch = of_numbers(name, 1.0, 1.0000001, math.nan, 2.0, 1e6 + 0.5, 5.0)
    assert differences(NAMED[name], served, batch).tolist() == [0, 0, 0, math.inf, 0, 2]


def test_lists_differ_by_the_ids_that_are_elsewhere() -> None:
    served = of_ids("last_clicks", ids([1, 2, 3], [1, 2], [], [5, 6], []))
    batch = of_ids("last_clicks", ids([1, 2, 3], [2, 1], [9], [5], []))
    assert differences(NAMED["last_clicks"], served, batch).tolist() == [0, 2, 1, 1, 0]


def test_weights_differ_by_the_most_that_any_key_does() -> None:
    name = "brand_affinity"
    served = of_ids(name, ids([1, 2], [2, 1], [1], weights=[[0.5, 0.25], [0.25, 0.5], [0.5]]))
    batch = of_ids(name, ids([1, 2], [1, 2], [3], weights=[[0.5, 0.125], [0.5, 0.25], [0.25]]))
    assert differences(NAMED[name], served, batch).tolist() == [0.125, 0, 0.5]


def test_defaults_are_what_a_stranger_has() -> None:
    assert defaults(NAMED["hours_since_click"], of_numbers("hours_since_click", 90 * 24, 1.0)).tolist() == [True, False]
    assert defaults(NAMED["median_price"], of_numbers("median_price", math.nan, 1.0)).tolist() == [True, False]
    assert defaults(NAMED["last_carts"], of_ids("last_carts", ids([], [4]))).tolist() == [True, False]


def test_bins_are_powers_of_two_whatever_the_data() -> None:
    values = np.array([math.nan, 0.0, 2**-9, 0.04, 0.5, 1.0, 2.0, 3.9, 2**20, -0.5])
    found = bins_of(values).tolist()
    assert found[:3] == [0, 1, 2]
    assert (found[3], found[4], found[5], found[6], found[7]) == (2, 6, 7, 8, 8)
    assert max(found) < BINS
    assert found[9] == found[4] + 20


def test_lists_are_binned_by_length_and_weights_by_their_sum() -> None:
    lengths = histogram(NAMED["last_clicks"], of_ids("last_clicks", ids([], [7], [1, 2, 3])))
    assert np.flatnonzero(lengths).tolist() == bins_of(np.array([0.0, 1.0, 3.0])).tolist()
    weights = ids([], [7, 8], weights=[[], [0.25, 0.5]])
    sums = histogram(NAMED["brand_affinity"], of_ids("brand_affinity", weights))
    assert np.flatnonzero(sums).tolist() == bins_of(np.array([0.0, 0.75])).tolist()


def test_the_index_of_two_histograms() -> None:
    served, trained = np.array([60, 40, 0]), np.array([20, 80, 0])
    p, q = (60.5 / 101, 40.5 / 101), (20.5 / 101, 80.5 / 101)
    expected = sum((a - b) * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert stability_index(served, trained) == pytest.approx(expected)
    assert stability_index(served, served) == stability_index(served, np.zeros(3, int)) == 0


def test_samples_of_one_distribution_stay_below_chance() -> None:
    rng = np.random.default_rng(0)
    shares = np.array([0.5, 0.3, 0.15, 0.05])
    pairs = [(rng.multinomial(60, shares), rng.multinomial(5000, shares)) for _ in range(300)]
    above = sum(stability_index(*pair) > chance(*pair) for pair in pairs)
    # mean + 3 deviations of a chi-squared with 3 degrees of freedom: 1.1 % are above
    assert above <= 9
    assert any(stability_index(*pair) > 0.05 for pair in pairs)


def test_quantiles_are_at_most_a_ninth_too_large() -> None:
    milliseconds = np.arange(1, 100_001)
    found = [span_quantile(spans(milliseconds), share) for share in (0.5, 0.99, 1.0)]
    for seconds, exact in zip(found, (50.0, 99.0, 100.0), strict=True):
        assert exact <= seconds <= exact * 2 ** (1 / 8)
    assert span_quantile(spans(np.zeros(0, np.int64)), 0.5) is None


def test_parts_come_to_the_whole_and_survive_a_file() -> None:
    one = Findings(features={"a": Tally(rows=3, mismatched=1, largest=2.0, examples=("r2", "r9"))})
    one.counts["pages.in"], one.spans["behind_s"] = 3, spans(np.array([5]))
    two = Findings(features={"a": Tally(rows=4, largest=1.0, examples=("r1", "r3")), "b": Tally(rows=1)})
    two.counts["pages.in"] = 4
    whole = Findings.from_json(Findings.together([one, two]).to_json())
    assert whole.counts["pages.in"] == 7
    assert (whole.features["a"].rows, whole.features["a"].mismatched, whole.features["a"].largest) == (7, 1, 2.0)
    assert (whole.features["a"].examples, whole.features["b"].rows) == (("r1", "r2", "r3"), 1)
    assert whole.spans["behind_s"].tolist() == spans(np.array([5])).tolist()


REACH = 1000


@pytest.mark.parametrize("seed", range(30))
def test_what_states_lack_is_what_a_loop_over_events_finds(seed) -> None:
    rng = np.random.default_rng(seed)
    size, rows, people = rng.integers(0, 60), 25, 4
    entity, time = rng.integers(0, people, size), rng.integers(0, 2000, size)
    streamed = rng.random(size) < 0.7
    position = np.array([position_of(int(t + rng.integers(0, 300)), int(rng.integers(9))) for t in time], np.int64)
    events = Events(entity=entity, time=time, code=np.ones(size, np.int8), item=entity, keys=NO_KEYS)
    arrivals = Arrivals(entity=entity[streamed], time=time[streamed], position=position[streamed])
    who, when = rng.integers(0, people + 1, rows), rng.integers(1, 2200, rows)
    known = rng.random(rows) < 0.8
    newest, upto = rng.integers(0, 2200, rows), rng.integers(0, 2300, rows) << 16
    pages = pa.table(
        {
            "timestamp": pa.array(when).cast(TIMESTAMP),
            "state": pa.array([b"s" if one else None for one in known], pa.binary()),
            "position": pa.array(upto, mask=~known),
            "event_time": pa.array(newest, mask=~known).cast(TIMESTAMP),
        }
    )
    moments = Moments.of(pages, who, events, arrivals, REACH)
    kinds = moments.kinds(100)
    for row in range(rows):
        oldest = when[row] - REACH
        mine = (entity == who[row]) & (time < when[row]) & (time >= oldest)
        held = max(newest[row], oldest - 1) if known[row] else oldest - 1
        lacked = mine & (time > held)
        if known[row]:
            lacked |= (entity == who[row]) & (time < when[row]) & streamed & (position > upto[row])
        lacks = time[lacked].min(initial=NEVER)
        assert moments.lacks[row] == lacks
        long_ago = lacked.any() and when[row] - lacks > 100
        last = time[mine].max(initial=oldest - 1)
        if not known[row] and long_ago:
            expected = {MISSING}
        elif lacked.any():
            expected = {BEHIND, LATE} if long_ago else {BEHIND}
        elif known[row] and (held >= when[row] or held > last):
            expected = {AHEAD}
        else:
            expected = {CURRENT}
        assert {kind for kind, chosen in kinds.items() if chosen[row]} == expected
        before = (entity == who[row]) & (time < when[row]) & streamed
        assert moments.accepted[row] == (position[before] >> 16).max(initial=0)


def test_options_say_all_that_is_wrong_with_them() -> None:
    message = (
        "feature_check: mismatch_alert: expected a share, 0 to 1, got 2; "
        "stale_after_s: expected a positive number, got 0; item_days: expected at least 1, got 0"
    )
    with pytest.raises(ValueError, match=message):
        FeatureCheckConfig(mismatch_alert=2, stale_after_s=0, item_days=0)
