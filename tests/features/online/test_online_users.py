"""Folds of users by hand: duplicates, the strongest event, bursts that late events change, co-visits taken back."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from online_cases import CONFIG, KEYS, START, Stream, events_table, summed_pairs

from features.online.config import OnlineConfig
from features.online.users import fold_users
from features.schemas import CART, CLICK, DISLIKE, EVENT_CODE, IMPRESSION, PURCHASE
from features.store.base import SEEN, Version

MINUTE = 60_000


def event(item: str, kind: str, minute: float, request: str | None = None, **more) -> dict:
    moment = START + round(minute * MINUTE)
    return {"user_id": "ann", "item_id": item, "event": kind, "timestamp": moment, "request_id": request, **more}


@pytest.fixture
def stream(store) -> Stream:
    return Stream(store, store.new_generation())


def fold(stream: Stream, *rows: dict, position: int = 1, config: OnlineConfig = CONFIG):
    version = Version(stream.generation, position)
    return fold_users(stream.store, events_table(list(rows)), KEYS, version=version, config=config)


def history(stream: Stream) -> list[tuple[float, str, int]]:
    """Minute, item and kind of each entry."""
    return [((time - START) / MINUTE, item, code) for time, _, item, code in stream.history("ann")]


def test_duplicates_are_known_within_a_range_and_later(stream):
    click = event("pot", CLICK, 1, event_id="a")
    assert fold(stream, click, click, event("pan", CLICK, 2, event_id="b")).fresh.tolist() == [True, False, True]
    assert fold(stream, click, event("pan", CLICK, 3, event_id="c"), position=2).fresh.tolist() == [False, True]


def test_a_range_folded_again_decides_alike(stream):
    click = event("pot", CLICK, 1, event_id="a")
    first = fold(stream, click, click)
    again = fold(stream, click, click)
    assert first.fresh.tolist() == again.fresh.tolist() == [True, False]
    assert first.pairs.equals(again.pairs)
    assert history(stream) == [(1, "pot", EVENT_CODE[CLICK])]


def test_an_impression_is_one_whoever_tells_of_it(stream):
    served = event("pot", IMPRESSION, 1, "r", event_id="from the service")
    seen = event("pot", IMPRESSION, 2, "r", event_id="from the client")
    other = event("pot", IMPRESSION, 2, "r2", event_id="on another page")
    assert fold(stream, served).fresh.tolist() == [True]
    assert fold(stream, seen, other, position=2).fresh.tolist() == [False, True]


def test_users_do_not_share_event_ids(stream):
    rows = [event("pot", CLICK, 1, event_id="a"), {**event("pot", CLICK, 1, event_id="a"), "user_id": "bob"}]
    assert fold(stream, *rows).fresh.tolist() == [True, True]


def test_the_strongest_event_of_a_page_counts_and_the_earliest_of_equal_ones(stream):
    fold(stream, event("pot", CLICK, 5, "r"), event("pan", CLICK, 6, "r"))
    fold(stream, event("pot", PURCHASE, 9, "r", event_id="x"), position=2)
    fold(stream, event("pot", CART, 10, "r", event_id="y"), event("pan", CLICK, 4, "r", event_id="z"), position=3)
    assert history(stream) == [(4, "pan", EVENT_CODE[CLICK]), (9, "pot", EVENT_CODE[PURCHASE])]
    fold(stream, event("pot", DISLIKE, 11, "r", event_id="v"), event("pot", CLICK, 12, "r2", event_id="w"), position=4)
    assert history(stream) == [
        (4, "pan", EVENT_CODE[CLICK]),
        (11, "pot", EVENT_CODE[DISLIKE]),
        (12, "pot", EVENT_CODE[CLICK]),
    ]


def test_one_millisecond_is_ordered_by_kind_then_place_on_the_page(stream):
    fold(
        stream, *(event(item, IMPRESSION, 1, "r", position=n, event_id=item) for n, item in enumerate(["b", "a", "c"]))
    )
    kinds = {"a": CLICK, "b": CLICK, "c": CART, "d": DISLIKE}
    fold(stream, *(event(item, kind, 2, "r", event_id=f"{item}!") for item, kind in kinds.items()), position=2)
    assert [item for _, item, _ in history(stream)] == ["c", "b", "a", "d"]


def test_a_late_event_joins_two_bursts(stream):
    """Two clicks on a pot 40 minutes apart are on two pages; with a click between on one, where the first counts."""
    fold(stream, event("pot", CLICK, 0), event("pot", CLICK, 40, event_id="x"))
    assert [minute for minute, _, _ in history(stream)] == [0, 40]
    fold(stream, event("pan", CLICK, 20, event_id="y"), position=2)
    assert history(stream) == [(0, "pot", EVENT_CODE[CLICK]), (20, "pan", EVENT_CODE[CLICK])]


def test_a_late_first_event_renames_a_burst(stream):
    fold(stream, event("pot", CLICK, 10))
    (before,) = stream.history("ann")
    fold(stream, event("pan", IMPRESSION, 5, event_id="x"), position=2)
    (after,) = stream.history("ann")
    assert before[1] != after[1], "the page is named after its first moment"
    assert (before[0], before[2:]) == (after[0], after[2:])


def test_a_late_event_takes_a_pair_back(stream):
    """1, 2, 3 are pairs 12, 13, 23; with 9 between 1 and 2, 1 and 3 lie three apart."""
    first = fold(stream, *(event(str(n), CLICK, 10 * n, event_id=str(n)) for n in (1, 2, 3)))
    assert {pair["item_id"] for pair in first.pairs.to_pylist()} == {"1", "2", "3"}
    late = fold(stream, event("9", CLICK, 15, event_id="9"), position=2)
    counts = {(row["item_id"], row["count"]) for row in late.pairs.to_pylist()}
    assert counts == {("1", 1), ("9", 1), ("2", 1), ("3", 1), ("1", -1), ("3", -1)}
    assert len(summed_pairs([first.pairs, late.pairs])) == 2 * 5, "12, 23, and 9 with 1, 2 and 3"


def test_a_history_keeps_its_newest_entries(stream):
    config = OnlineConfig(history_length=2)
    fold(stream, *(event(str(n), CLICK, n, "r", event_id=str(n)) for n in range(4)), config=config)
    fold(stream, event("9", CLICK, 2.5, "r", event_id="9"), position=2, config=config)
    assert [item for _, item, _ in history(stream)] == ["9", "3"]


def test_a_user_with_very_many_events_stays_bounded(stream):
    config = OnlineConfig(recent_events=50)
    for position in range(1, 6):
        rows = [event("pot", IMPRESSION, position + n / 100, "r", event_id=f"{position} {n}") for n in range(60)]
        rows = [{**row, "request_id": row["event_id"]} for row in rows]
        fold(stream, *rows, position=position, config=config)
    (held,) = stream.store.read_blobs([(SEEN, "ann")], generation=stream.generation)
    assert len(held.payload) <= 16 + (50 + 60) * 40


def test_old_events_are_forgotten_but_for_the_last_positive_ones(stream):
    config = OnlineConfig(lateness_hours=1)
    fold(stream, *(event(str(n), CLICK, n, f"r{n}", event_id=str(n)) for n in range(5)), config=config)
    fold(stream, event("9", CLICK, 300, "s", event_id="9"), position=2, config=config)
    last = event("10", CLICK, 600, "s", event_id="10")
    pairs = fold(stream, last, position=3, config=config).pairs
    assert {row["item_id"] for row in pairs.to_pylist()} == {"10", "9", "4"}, "two positive events back"


def test_an_empty_range(stream):
    folded = fold_users(stream.store, events_table([]), KEYS, version=Version(stream.generation, 1), config=CONFIG)
    assert (len(folded.fresh), folded.pairs.num_rows) == (0, 0)


def test_wrong_options_are_told_together():
    with pytest.raises(ValueError, match=r"cap: expected a positive number, got 0; history_length: .* got -1"):
        OnlineConfig(cap=0, history_length=-1)


def test_pairs_name_items_that_the_catalogue_does_not_know(stream):
    rows = [event("unknown", CLICK, 1, event_id="a"), event("gone", CLICK, 2, event_id="b")]
    pairs = fold(stream, *rows).pairs
    assert sorted(pairs.column("item_id").to_pylist()) == ["gone", "unknown"]
    assert np.asarray(pairs.column("count")).tolist() == [1, 1]
    assert pairs.schema.field("other").type == pa.int64()
