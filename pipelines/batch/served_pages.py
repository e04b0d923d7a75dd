"""What was logged of pages when they were served joins the pages that events tell of.

A served page keeps its order: its items as they were shown, with sources, scores and propensities, then what only
events know of. An item of it without any event was an impression at the time of the page. The stream's log has an event
for every item that it knows of; of served pages that were given as a raw table there may be none.
Legend: `P` pages, `E` entries: items of pages.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.schemas import EVENTS, IMPRESSION, PAGES, SERVED_PAGES, STREAM_POSITION
from kernels.jagged import offsets_from_lengths, row_numbers, run_starts
from pipelines.batch.arrow import Ints, string_ranks

OF_PAGE = (
    "policy",
    "arm",
    "release",
    "catalogue_version",
    "candidates",
    "candidate_scores",
    "epsilon",
    "temperature",
    "filters",
    "context",
    "fallback",
)
OF_ITEM = ("sources", "scores", "propensities")
"""What the log says of a page, and of each of its items."""
SERVED_SCHEMA = SERVED_PAGES.append(pa.field(STREAM_POSITION, pa.int64()))
"""Of served pages wherever they were logged; null stands for the position of those that were given as a raw table."""
_LAST = np.iinfo(np.int64).max


def as_served(rows: pa.Table) -> pa.Table:
    """Return rows of the stream's `page_log`, or of `clean_served_pages`, in the one schema of both."""
    columns = [
        rows.column(field.name) if field.name in rows.column_names else pa.nulls(rows.num_rows, field.type)
        for field in SERVED_SCHEMA
    ]
    return pa.Table.from_arrays(columns, schema=SERVED_SCHEMA)


def shown_first(served: pa.Table) -> pa.Table:
    """Return an impression of the first item of each given page, for which there may be no event at all.

    Args:
        served: Rows in `SERVED_SCHEMA`; those of the stream's log are passed over.

    Returns:
        Rows of `events`, whose ids are `first_ids` of their requests.
    """
    given = served.filter(served.column(STREAM_POSITION).is_null()).combine_chunks()
    size = given.num_rows
    known = {name: given.column(name) for name in ("user_id", "request_id", "timestamp")}
    known["event_id"] = first_ids(given)
    known["item_id"] = pc.list_element(_one(given, "items"), 0) if size else pa.array([], pa.string())
    known["event"] = pa.array([IMPRESSION]).take(np.zeros(size, dtype=np.int64))
    known["position"] = pa.array(np.zeros(size, dtype=np.int32))
    columns = [known.get(field.name, pa.nulls(size, field.type)) for field in EVENTS]
    return pa.Table.from_arrays(columns, schema=EVENTS)


def first_ids(pages: pa.Table) -> pa.ChunkedArray:
    """Return the event ids that `shown_first` gives, by column `request_id`."""
    return pc.binary_join_element_wise("served", pages.column("request_id"), " ")


def with_served(pages: pa.Table, served: pa.Table) -> pa.Table:
    """Complete pages by what was logged of them.

    Args:
        pages: Rows of `pages`.
        served: Rows in `SERVED_SCHEMA`, of these users; of several of one page the first of the stream counts.

    Returns:
        The same pages in the same order.
    """
    page, logged = _matches(pages, served)
    if not len(page):
        return pages
    chosen, log = pages.take(pa.array(page)).combine_chunks(), served.take(pa.array(logged)).combine_chunks()
    columns = {name: chosen.column(name) for name in PAGES.names}
    columns |= {name: _first_known(_one(log, name), _one(chosen, name)) for name in OF_PAGE}
    columns |= _entries(chosen, log)
    others = np.setdiff1d(np.arange(pages.num_rows), page)
    merged = pa.concat_tables([pages.take(pa.array(others)), pa.table(columns, schema=PAGES)]).combine_chunks()
    order = np.empty(pages.num_rows, dtype=np.int64)
    order[np.concatenate([others, page])] = np.arange(pages.num_rows)
    return merged.take(pa.array(order)).combine_chunks()


def _matches(pages: pa.Table, served: pa.Table) -> tuple[Ints, Ints]:
    """Return rows of pages that were logged, and the row of the log of each."""
    size = pages.num_rows
    ranks = [
        string_ranks(pa.chunked_array([*pages.column(name).chunks, *served.column(name).chunks], pa.string()))
        for name in ("user_id", "request_id")
    ]
    key = ranks[0] * (int(ranks[1].max(initial=0)) + 1) + ranks[1]
    newest_last = np.lexsort((np.asarray(pc.fill_null(served.column(STREAM_POSITION), _LAST)), key[size:]))
    first = newest_last[run_starts(key[size:][newest_last])]
    _, pages_at, log_at = np.intersect1d(key[:size], key[size:][first], return_indices=True)
    return pages_at, first[log_at]


def _entries(pages: pa.Table, log: pa.Table) -> dict[str, pa.Array]:
    """Return the columns that hold a value for each item, of pages that lie beside what was logged of them."""
    shown, seen = _one(log, "items"), _one(pages, "items")
    items = string_ranks(pa.concat_arrays([seen.flatten(), shown.flatten()]))
    page_E, place_E = (np.concatenate(parts) for parts in zip(_places(seen), _places(shown), strict=True))
    split = len(seen.flatten())
    key = page_E * (int(items.max(initial=0)) + 1) + items
    union = np.unique(key)
    at_seen, at_shown = _find(union, key[:split]), _find(union, key[split:])
    page = np.where(at_seen >= 0, page_E[at_seen], page_E[split + at_shown])
    rank = np.where(at_shown >= 0, place_E[split + at_shown], _LAST)
    order = np.lexsort((np.where(at_seen >= 0, place_E[at_seen], 0), rank, page))
    at_seen, at_shown, page = at_seen[order], at_shown[order], page[order]
    offsets = pa.array(offsets_from_lengths(np.bincount(page, minlength=len(seen))), pa.int32())

    def lists(values: pa.Array) -> pa.Array:
        known = np.bincount(page, weights=np.asarray(values.is_valid()), minlength=len(seen))
        return pa.ListArray.from_arrays(offsets, values, mask=pa.array(known == 0))

    of_events = {name: _values(pages, name, page, at_seen, page_E, place_E) for name in _OF_EVENTS}
    of_log = {name: _values(log, name, page, at_shown, page_E[split:], place_E[split:]) for name in OF_ITEM}
    of_log["propensities"] = pc.coalesce(
        of_log["propensities"], _values(pages, "propensities", page, at_seen, page_E, place_E)
    )
    times = _one(pages, "timestamp").take(pa.array(page))
    ids = pa.concat_arrays([seen.flatten(), shown.flatten()])
    named = ids.take(pa.array(np.where(at_seen >= 0, at_seen, split + at_shown)))
    return {
        "items": pa.ListArray.from_arrays(offsets, named),
        "events": pa.ListArray.from_arrays(offsets, pc.fill_null(of_events["events"], IMPRESSION)),
        "event_times": pa.ListArray.from_arrays(offsets, pc.coalesce(of_events["event_times"], times)),
        **{name: lists(values) for name, values in {"values": of_events["values"], **of_log}.items()},
    }


_OF_EVENTS = ("events", "event_times", "values")


def _one(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name).combine_chunks()
    return column if isinstance(column, pa.Array) else pa.concat_arrays(column.chunks)


def _first_known(values: pa.Array, others: pa.Array) -> pa.Array:
    """Return values, and where there is none the other one; unlike `pc.coalesce`, of lists and maps, too."""
    rows = np.arange(len(values))
    return pa.concat_arrays([values, others]).take(
        pa.array(np.where(np.asarray(values.is_valid()), rows, len(values) + rows))
    )


def _places(lists: pa.ListArray) -> tuple[Ints, Ints]:
    """Return the page of each entry, and its place on it."""
    lengths = np.asarray(pc.list_value_length(lists), dtype=np.int64)
    page = row_numbers(lengths)
    return page, np.arange(len(page)) - offsets_from_lengths(lengths)[:-1][page]


def _find(union: Ints, keys: Ints) -> Ints:
    """Return the first entry of each key, -1 where there is none."""
    known, first = np.unique(keys, return_index=True)
    place = np.full(len(union), -1, dtype=np.int64)
    place[np.searchsorted(union, known)] = first
    return place


def _values(table: pa.Table, name: str, page: Ints, entry: Ints, page_E: Ints, place_E: Ints) -> pa.Array:
    """Return values of entries, null where there is no entry, or its page has none."""
    column = _one(table, name)
    lengths = np.asarray(pc.fill_null(pc.list_value_length(column), 0), dtype=np.int64)
    starts = offsets_from_lengths(lengths)[:-1]
    place = place_E[entry]
    known = (entry >= 0) & (place < lengths[page])
    index = pa.array(np.where(known, starts[page] + place, 0), mask=~known)
    return column.flatten().take(index)
