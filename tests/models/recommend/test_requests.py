from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.schemas import (
    CLICK,
    DISLIKE,
    EVENT_CODE,
    EVENT_KINDS,
    IMPRESSION,
    POSITIVE_CODES,
    PURCHASE,
    SEQUENCES,
    SPLITS,
)
from features.semantic_ids import Catalogue
from features.workspace import Workspace
from models.recommend.requests import EvaluationCases, cases_from_table, requests_from_sequences

CATALOGUE = Catalogue(["a", "b", "c", "d"], np.zeros((4, 1), dtype=np.int32), (1,))
A, B, C, D = range(4)
Entry = tuple[str, str, int]
"""Item, event, time."""
Page = tuple[str, str, int, list[Entry]]
"""User, split, time, entries."""


def make_sequences(pages: list[Page]) -> pa.Table:
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for number, (user, split, time, entries) in enumerate(pages):
        empty = {name: [] for name in SEQUENCES.names[2:]}
        row = rows.setdefault((user, split), {"user_id": user, "split": split, **empty})
        row["page_ids"].append(f"page{number}")
        row["page_times"].append(time)
        row["page_lengths"].append(len(entries))
        row["items"] += [item for item, _, _ in entries]
        row["events"] += [EVENT_CODE[event] for _, event, _ in entries]
        row["times"] += [moment for _, _, moment in entries]
    return pa.Table.from_pylist(list(rows.values()), schema=SEQUENCES)


def history_of(cases: EvaluationCases, case: int) -> list[int]:
    offsets = cases.requests.history_offsets
    return cases.requests.history_items[offsets[case] : offsets[case + 1]].tolist()


def relevant_of(cases: EvaluationCases, case: int) -> list[int]:
    offsets = cases.relevant_offsets
    return sorted(cases.relevant_items[offsets[case] : offsets[case + 1]].tolist())


def excluded_of(cases: EvaluationCases, case: int) -> list[int]:
    offsets = cases.requests.excluded_offsets
    return cases.requests.excluded_items[offsets[case] : offsets[case + 1]].tolist()


def test_leave_one_out_history_is_everything_before_the_last_page():
    pages: list[Page] = [
        ("u", "test", 40, [("d", PURCHASE, 40)]),
        ("u", "train", 10, [("a", PURCHASE, 10)]),
        ("u", "train", 20, [("b", PURCHASE, 20)]),
        ("u", "validation", 30, [("c", PURCHASE, 30)]),
        ("stranger", "train", 5, [("d", CLICK, 5)]),
    ]
    sequences = make_sequences(pages)
    test = cases_from_table(sequences, CATALOGUE, "test", max_history=50, order_only=True, dataset="tiny")
    assert (history_of(test, 0), relevant_of(test, 0), excluded_of(test, 0)) == ([A, B, C], [D], [])
    assert (test.requests.user_ids, test.requests.times_B.tolist(), test.page_ids) == (["u"], [40], ["page0"])
    assert test.requests.history_times.tolist() == [10, 20, 30]
    assert (test.order_only, test.dataset, test.exclude_seen) == (True, "tiny", False)
    newest = cases_from_table(sequences, CATALOGUE, "test", max_history=2)
    assert history_of(newest, 0) == [B, C]


def test_a_page_with_several_events():
    page: list[Entry] = [("c", PURCHASE, 25), ("a", CLICK, 22), ("b", IMPRESSION, 20), ("d", DISLIKE, 21)]
    pages: list[Page] = [
        ("u", "train", 10, [("a", CLICK, 11), ("b", IMPRESSION, 10), ("c", DISLIKE, 12)]),
        ("u", "validation", 20, page),
        ("u", "validation", 24, [("b", CLICK, 26)]),
        ("u", "validation", 30, [("b", CLICK, 30)]),
    ]
    cases = cases_from_table(make_sequences(pages), CATALOGUE, "validation", max_history=50)
    assert [relevant_of(cases, case) for case in range(3)] == [[A, C], [B], [B]]
    # The click at 22 is known at 24, the purchase at 25 of the page shown at 20 is not; both are known at 30.
    assert [history_of(cases, case) for case in range(3)] == [[A, C], [A, C, D, A], [A, C, D, A, C, B]]
    kinds = [EVENT_CODE[kind] for kind in (CLICK, DISLIKE)]
    assert cases.requests.history_events[:2].tolist() == kinds


def test_what_is_left_out_is_counted_by_reason():
    pages: list[Page] = [
        ("u", "train", 1, [("a", CLICK, 1)]),
        ("u", "test", 2, [("b", IMPRESSION, 2), ("c", DISLIKE, 2)]),
        ("u", "test", 3, [("unknown", CLICK, 3)]),
        ("u", "test", 4, [("b", CLICK, 4), ("unknown", PURCHASE, 4)]),
        ("v", "test", 9, [("a", CLICK, 9)]),
        ("v", "test", 10, [("a", CLICK, 10), ("b", CLICK, 10)]),
        ("v", "test", 11, [("b", CLICK, 11)]),
    ]
    sequences = make_sequences(pages)
    cases = cases_from_table(sequences, CATALOGUE, "test", max_history=9)
    assert cases.page_ids == ["page3", "page4", "page5", "page6"]
    assert dict(cases.left_out) == {
        "pages.no_positive": 1, "pages.no_semantic_id": 1, "pages.seen": 0, "items.no_semantic_id": 2, "items.seen": 0
    }  # fmt: skip
    unseen = cases_from_table(sequences, CATALOGUE, "test", max_history=9, exclude_seen=True)
    assert unseen.page_ids == ["page3", "page4", "page5"]
    assert relevant_of(unseen, 2) == [B]
    assert [excluded_of(unseen, case) for case in range(3)] == [[A, C], [], [A]]
    assert (unseen.left_out["pages.seen"], unseen.left_out["items.seen"]) == (1, 2)


def test_every_page_is_a_case_where_asked_for():
    pages = [
        ("u", "test", 5, [("a", IMPRESSION, 5)]),
        ("u", "test", 9, [("b", CLICK, 9), ("c", IMPRESSION, 9)]),
        ("u", "test", 12, [("d", DISLIKE, 13)]),
    ]
    cases = cases_from_table(make_sequences(pages), CATALOGUE, "test", max_history=5, every_page=True)
    assert cases.page_ids == ["page0", "page1", "page2"]
    assert [relevant_of(cases, case) for case in range(3)] == [[], [B], []]
    assert [history_of(cases, case) for case in range(3)] == [[], [], [B]]


def test_cold_user_is_a_case_with_empty_history():
    cases = cases_from_table(make_sequences([("u", "test", 3, [("a", CLICK, 3)])]), CATALOGUE, "test", max_history=5)
    assert (len(cases), history_of(cases, 0)) == (1, [])


def test_take_and_batches_keep_cases_whole():
    pages: list[Page] = [
        (user, "test", time, [("a", CLICK, time), ("b", CLICK, time)]) for user in "vu" for time in (1, 2, 3)
    ]
    cases = cases_from_table(make_sequences(pages), CATALOGUE, "test", max_history=9, exclude_seen=False)
    assert cases.requests.user_ids == ["u", "u", "u", "v", "v", "v"]
    two = cases.take(np.array([5, 1]))
    assert (two.page_ids, two.users_B.tolist()) == ([cases.page_ids[5], cases.page_ids[1]], [1, 0])
    assert [history_of(two, case) for case in (0, 1)] == [history_of(cases, 5), history_of(cases, 1)]
    assert [len(batch) for batch in cases.batches(4)] == [4, 2]
    assert [page for batch in cases.batches(4) for page in batch.page_ids] == cases.page_ids


def slow_cases(pages: list[Page], split: str, max_history: int, exclude_seen: bool) -> dict[str, tuple[Any, ...]]:
    """Page id -> (history with times, relevant, excluded), one page at a time."""
    order = SPLITS
    result = {}
    for number, (user, page_split, time, entries) in enumerate(pages):
        if page_split != split:
            continue
        past = sorted(
            (max(moment, other_time), other_time, order.index(other_split), item)
            for other, other_split, other_time, others in pages
            for item, event, moment in others
            if other == user and order.index(other_split) <= order.index(split) and item in "abcd"
            if event != IMPRESSION and max(moment, other_time) < time
        )
        history = [(entry[0], "abcd".index(entry[3])) for entry in past]
        seen = sorted({item for _, item in history}) if exclude_seen else []
        relevant = {
            "abcd".index(item) for item, event, _ in entries if EVENT_CODE[event] in POSITIVE_CODES and item in "abcd"
        }
        if relevant - set(seen):
            result[f"page{number}"] = (sorted(history), sorted(relevant - set(seen)), seen)
    return {page: (history[-max_history:], *rest) for page, (history, *rest) in result.items()}


entries_strategy = st.lists(
    st.tuples(st.sampled_from("abcde"), st.sampled_from(EVENT_KINDS), st.integers(0, 6)),
    min_size=1,
    max_size=4,
    unique_by=lambda entry: entry[0],
)
pages_strategy = st.lists(
    st.tuples(st.sampled_from("uvw"), st.sampled_from(["train", "validation"]), st.integers(0, 8), entries_strategy),
    min_size=1,
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(pages=pages_strategy, max_history=st.sampled_from([1, 3, 100]), exclude_seen=st.booleans())
def test_equals_the_slow_reference_and_never_looks_ahead(pages: list[Page], max_history: int, exclude_seen: bool):
    # Events lie 0 to 6 after their page; pages of equal times and of splits out of order occur.
    pages = [
        (user, split, time, [(item, event, time + after) for item, event, after in entries])
        for user, split, time, entries in pages
    ]
    expected = slow_cases(pages, "validation", max_history, exclude_seen)
    if not expected:
        with pytest.raises(ValueError, match="no page of split 'validation'"):
            cases_from_table(make_sequences(pages), CATALOGUE, "validation", max_history=1, exclude_seen=exclude_seen)
        return
    cases = cases_from_table(
        make_sequences(pages), CATALOGUE, "validation", max_history=max_history, exclude_seen=exclude_seen
    )
    assert set(cases.page_ids) == set(expected)
    for case, page in enumerate(cases.page_ids):
        history, relevant, excluded = expected[page]
        offsets = cases.requests.history_offsets
        times = cases.requests.history_times[offsets[case] : offsets[case + 1]]
        assert (times < cases.requests.times_B[case]).all()
        assert (np.diff(times) >= 0).all()
        assert times.tolist() == [time for time, _ in history]
        if max_history == 100:  # below, which of simultaneous entries are the newest is a matter of their order
            assert sorted(zip(times.tolist(), history_of(cases, case), strict=True)) == history
        assert (relevant_of(cases, case), excluded_of(cases, case)) == (relevant, excluded)


def test_reads_a_workspace_and_carries_its_notes(tmp_path):
    workspace = Workspace(tmp_path)
    pages: list[Page] = [("u", split, time, [("a", CLICK, time)]) for time, split in enumerate(SPLITS)]
    table = workspace.table("sequences")
    table.commit([table.write_part(make_sequences(pages), shard=0)], notes={"dataset": "tiny", "order_only": True})
    cases = requests_from_sequences(workspace, CATALOGUE, "validation", max_history=5)
    assert (history_of(cases, 0), cases.dataset, cases.order_only, cases.split) == ([A], "tiny", True, "validation")
    with pytest.raises(ValueError, match=r"split: expected one of train, validation, test, got 'dev'"):
        requests_from_sequences(workspace, CATALOGUE, "dev", max_history=5)
    with pytest.raises(ValueError, match="max_history: expected at least 1, got 0"):
        requests_from_sequences(workspace, CATALOGUE, "test", max_history=0)
