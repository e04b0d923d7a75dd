"""The vectorised functions against plain Python loops, on random event logs with many ties."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from batch_cases import DAY, MINUTE, START, events_table, random_events
from batch_reference import (
    reference_entries,
    reference_pages,
    reference_sequences,
    reference_statistics,
    reference_transitions,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.batch.condensed import as_partial, condense, merged_counts
from pipelines.batch.config import PagesConfig, SplitConfig, TransitionsConfig
from pipelines.batch.entries import make_entries
from pipelines.batch.pages import pages_from_events
from pipelines.batch.sequences import sequences_from_entries
from pipelines.batch.split import Splitter
from pipelines.batch.statistics import (
    COUNT_COLUMNS,
    merge_statistics,
    merge_transitions,
    pair_units,
    partial_statistics,
    training_entries,
)

TIMES = ("timestamp", "page_times", "event_times", "times")
PAGE_COLUMNS = ("user_id", "timestamp", "policy", "items", "events", "event_times", "values", "propensities")


def plain(table: pa.Table) -> list[dict]:
    """Rows with times as milliseconds."""
    numbers = table.cast(
        pa.schema(
            pa.field(field.name, pa.list_(pa.int64()) if pa.types.is_list(field.type) else pa.int64())
            if field.name in TIMES
            else field
            for field in table.schema
        )
    )
    return numbers.to_pylist()


def splitter_for(pages: list[dict], config: SplitConfig) -> Splitter:
    if config.protocol == "leave_one_out":
        return Splitter()
    test = (max(page["timestamp"] for page in pages) // DAY + 1 - config.test_days) * DAY
    return Splitter(validation_ms=test - config.validation_days * DAY, test_ms=test)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    size=st.integers(1, 60),
    cap=st.integers(1, 4),
    gap=st.sampled_from([20, 30]),  # times lie 20 minutes apart
    by_day=st.booleans(),
)
@example(seed=8533, size=42, cap=1, gap=20, by_day=False)
def test_pages_equal_the_reference_in_any_order(seed, size, cap, gap, by_day):
    rows = random_events(seed, size)
    config = PagesConfig(gap_minutes=gap, cap=cap)
    shuffled = np.random.default_rng(seed).permutation(size)
    found = pages_from_events(events_table(rows).take(pa.array(shuffled)), config, by_day=by_day)
    assert found.equals(pages_from_events(events_table(rows), config, by_day=by_day))
    expected = reference_pages(rows, gap_ms=gap * MINUTE, cap=cap, by_day=by_day)
    pages = plain(found)
    # a request and a burst may show one item at one time: only all columns together tell the pages apart
    key = lambda page: repr([page[name] for name in PAGE_COLUMNS])  # noqa: E731
    for page, wanted in zip(sorted(pages, key=key), sorted(expected, key=key), strict=True):
        assert {name: page[name] for name in PAGE_COLUMNS} == {name: wanted[name] for name in PAGE_COLUMNS}
        assert wanted["request_id"] in (None, page["request_id"])
    assert len({page["request_id"] for page in pages}) == len(pages)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(1, 80), protocol=st.sampled_from(["time", "leave_one_out"]))
def test_sequences_statistics_and_transitions_equal_the_reference(seed, size, protocol):
    table = pages_from_events(events_table(random_events(seed, size)), PagesConfig(cap=3), by_day=False)
    config = SplitConfig(protocol=protocol, validation_days=1, test_days=2)
    pages = plain(table)
    splitter = splitter_for(pages, config)
    expected = reference_entries(pages, protocol=protocol, validation_days=1, test_days=2)
    shuffled = table.take(pa.array(np.random.default_rng(seed).permutation(len(pages))))
    entries = make_entries(shuffled, splitter)
    assert plain(sequences_from_entries(entries)) == reference_sequences(expected)

    train = training_entries(entries)
    last = max(train.column("time").to_pylist(), default=0)
    statistics = merge_statistics(partial_statistics(train, last, 3.0))
    wanted = reference_statistics(expected, 3.0)
    assert statistics.column("item_id").to_pylist() == sorted(wanted)
    times = statistics.select(["first_time", "last_time"]).cast(
        pa.schema([("first_time", pa.int64()), ("last_time", pa.int64())])
    )
    numbers = [statistics.column(name).to_pylist() for name in (*COUNT_COLUMNS, "users", "popularity")]
    numbers += [statistics.column("recent_popularity").to_pylist(), *(column.to_pylist() for column in times.columns)]
    for item, *found in zip(sorted(wanted), *numbers, strict=True):
        assert found == pytest.approx(wanted[item], abs=1e-6)

    transitions = merge_transitions(pair_units(train, 3), statistics, TransitionsConfig())
    found = {(row["item_id"], row["next_item_id"]): row["weight"] for row in transitions.to_pylist()}
    assert found == pytest.approx(reference_transitions(expected, 3, 10.0), abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(1, 80))
def test_nothing_from_the_split_on_reaches_statistics_and_transitions(seed, size):
    rows = random_events(seed, size)
    cut = START + 3 * DAY
    splitter = Splitter(validation_ms=cut, test_ms=cut + DAY)

    def train_of(events: list[dict]) -> pa.Table:
        pages = pages_from_events(events_table(events), PagesConfig(cap=3), by_day=True)
        return training_entries(make_entries(pages, splitter))

    def results_of(train: pa.Table) -> tuple[pa.Table, pa.Table]:
        statistics = merge_statistics(partial_statistics(train, cut, 30.0))
        return statistics, merge_transitions(pair_units(train, 3), statistics, TransitionsConfig())

    train = train_of(rows)
    assert all(time < cut for time in train.column("time").to_pylist())
    without_requests = [{**row, "request_id": None} for row in rows]
    only_past = [row for row in without_requests if row["timestamp"] < cut]
    # Bursts are days here, so no page reaches over the cut, and the future must make no difference at all.
    with_future = results_of(train_of(without_requests))
    if only_past:
        for found, wanted in zip(with_future, results_of(train_of(only_past)), strict=True):
            assert found.equals(wanted)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(1, 80))
def test_condensed_pages_say_the_same_of_items(seed, size):
    pages = pages_from_events(events_table(random_events(seed, size)), PagesConfig(cap=3), by_day=False)
    splitter = splitter_for(plain(pages), SplitConfig(validation_days=1, test_days=1))
    train = training_entries(make_entries(pages, splitter))
    last = max(train.column("time").to_pylist(), default=0)
    found = condense(pages, splitter)
    assert found.train == train.num_rows
    positive = training_entries(make_entries(found.pages, splitter))
    assert positive.column("item_id").equals(train.filter(train.column("positive")).column("item_id"))
    assert pair_units(positive, 3).equals(pair_units(train, 3))
    sums = [partial_statistics(positive, last, 3.0), as_partial(merged_counts(found.counts))]
    merged = merge_statistics(pa.concat_tables(sums))
    assert merged.equals(merge_statistics(partial_statistics(train, last, 3.0)))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(1, 80))
def test_a_page_is_never_in_its_own_history(seed, size):
    """History is what happened strictly before a page's time; a page's own entries never did."""
    pages = pages_from_events(events_table(random_events(seed, size)), PagesConfig(cap=3), by_day=False)
    for row in plain(sequences_from_entries(make_entries(pages, Splitter()))):
        assert row["page_times"] == sorted(row["page_times"])
        offset = 0
        for time, length in zip(row["page_times"], row["page_lengths"], strict=True):
            assert min(row["times"][offset : offset + length]) >= time
            offset += length
