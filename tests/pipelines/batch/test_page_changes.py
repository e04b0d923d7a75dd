"""What new events change of pages, and what the log of served pages adds to them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from batch_cases import DAY, HOUR, MINUTE, START, event, events_table, random_events
from hypothesis import given, settings
from hypothesis import strategies as st

from features.schemas import LOG_TABLES, PAGE_LOG, PAGES
from pipelines.batch.config import PagesConfig
from pipelines.batch.merge import without_keys
from pipelines.batch.page_changes import first_touched, page_changes
from pipelines.batch.pages import pages_from_events
from pipelines.batch.served_pages import as_served, with_served
from pipelines.batch.transforms import SORT_KEYS, sorted_rows

NONE_SERVED = LOG_TABLES[PAGE_LOG].empty_table()
KEYS = SORT_KEYS["pages"]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000), size=st.integers(2, 60), share=st.sampled_from([0.05, 0.5, 0.95]), by_day=st.booleans()
)
def test_changed_pages_lead_from_the_old_pages_to_the_new_ones(seed, size, share, by_day):
    config = PagesConfig(gap_minutes=20, cap=3)
    events = events_table(random_events(seed, size))
    fresh = np.random.default_rng(seed).random(size) < share
    fresh[0] = True
    before = PAGES.empty_table()
    if not fresh.all():
        before = pages_from_events(events.filter(pa.array(~fresh)), config, by_day=by_day)
    moment = first_touched(events.filter(pa.array(fresh)), NONE_SERVED, before, config, by_day=by_day)
    since = moment // DAY * DAY
    while True:
        near = np.asarray(events.column("timestamp").cast(pa.int64())) >= since
        part = events.filter(pa.array(near))
        limit = None if near.all() else since
        found = page_changes(part, fresh[near], NONE_SERVED, config, by_day=by_day, since_ms=limit)
        if not found.cut:
            break
        since -= DAY
    after = pa.concat_tables([without_keys(before, found.removed, KEYS), found.added])
    assert after.num_rows == before.num_rows - found.removed.num_rows + found.added.num_rows
    expected = pages_from_events(events, config, by_day=by_day)
    assert sorted_rows(after, "pages").equals(sorted_rows(expected, "pages"))


def test_a_burst_that_reaches_over_midnight_is_told():
    rows = [event("u", "a", "click", DAY - MINUTE), event("u", "b", "click", DAY + MINUTE)]
    config, events = PagesConfig(), events_table(rows)
    last = events.slice(1)
    assert first_touched(last, NONE_SERVED, PAGES.empty_table(), config, by_day=False) == START + DAY - 29 * MINUTE
    seen = page_changes(last, np.array([True]), NONE_SERVED, config, by_day=False, since_ms=START + DAY)
    assert seen.cut == 1
    later = page_changes(last, np.array([True]), NONE_SERVED, config, by_day=False, since_ms=START + DAY - HOUR)
    assert later.cut == 0


def served(position: int, **columns) -> dict:
    row = dict.fromkeys(LOG_TABLES[PAGE_LOG].names)
    return {**row, "timestamp": START, "events": [], "event_times": [], "stream_position": position, **columns}


def test_a_served_page_keeps_its_order_and_gets_what_was_logged():
    rows = [
        event("u", "x", "click", 2 * MINUTE, request_id="r"),
        event("u", "b", "purchase", MINUTE, request_id="r", value=3.0),
        event("u", "a", "impression", 0, request_id="r", position=1, propensity=0.5),
        event("v", "a", "click", 0, request_id="r"),
        event("u", "a", "click", DAY),
    ]
    pages = pages_from_events(events_table(rows), PagesConfig(), by_day=False)
    assert [page["items"] for page in pages.to_pylist()] == [["a", "b", "x"], ["a"], ["a"]]
    log = [
        served(7, request_id="r", user_id="u", items=["x"], policy="repeated"),
        served(
            5,
            request_id="r",
            user_id="u",
            items=["c", "b", "a"],
            policy="explore",
            arm="B",
            scores=[0.3, 0.2, 0.1],
            propensities=[0.25, 0.125, None],
            candidates=["a", "b", "c", "d"],
            epsilon=0.1,
        ),
        served(6, request_id="other", user_id="u", items=["z"]),
    ]
    found = with_served(pages, as_served(pa.Table.from_pylist(log, schema=LOG_TABLES[PAGE_LOG]))).to_pylist()
    page = found[0]
    assert page["items"] == ["c", "b", "a", "x"]
    assert page["events"] == ["impression", "purchase", "impression", "click"]
    assert page["propensities"] == [0.25, 0.125, 0.5, None]
    assert [None if score is None else round(score, 1) for score in page["scores"]] == [0.3, 0.2, 0.1, None]
    assert page["values"] == [None, 3.0, None, None]
    assert (page["policy"], page["arm"], page["epsilon"], page["sources"]) == ("explore", "B", 0.1, None)
    assert page["candidates"] == ["a", "b", "c", "d"]
    assert page["event_times"][0].timestamp() * 1000 == START
    assert found[1:] == pages.to_pylist()[1:]
