"""The contract of served pages: what may be wrong with a row.

Legend: `R` rows, `E` entries: the elements of one column's lists, row after row.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.ids import ID, absent_ids, wrong_ids
from features.schemas import BAD_ID, BAD_PROPENSITY, BAD_VALUE, MALFORMED
from kernels.jagged import row_numbers
from kernels.ranks import string_ranks
from pipelines.batch.arrow import Ints, Mask
from pipelines.batch.faults import EXPECTED, Fault, malformed, null_ids, time_fault, unreadable, where
from pipelines.batch.parse import Parsed

_NAMES = ("items", "candidates")


def served_page_faults(parsed: Parsed) -> list[Fault]:
    """Return what is wrong with rows of `served_pages`."""
    texts = ("policy", "arm", "release", "catalogue_version", "filters", "context", "fallback")
    return [
        *null_ids(parsed, "user_id", "request_id"),
        time_fault(parsed, "timestamp", required=True),
        *_list_faults(parsed),
        *_item_faults(parsed),
        _propensity_fault(parsed),
        *(_lengths_fault(parsed, name, "items", "item") for name in ("propensities", "sources", "scores")),
        _lengths_fault(parsed, "candidate_scores", "candidates", "candidate"),
        *(_score_fault(parsed, name) for name in ("scores", "candidate_scores")),
        _range_fault(parsed, "epsilon", "a share from 0 to 1", 1.0),
        _range_fault(parsed, "temperature", "a finite number >= 0", np.finfo(np.float64).max),
        *malformed(parsed, *texts),
    ]


def _list_faults(parsed: Parsed) -> list[Fault]:
    """Return where lists could not be read."""
    reasons = {"items": MALFORMED, "propensities": BAD_PROPENSITY}
    return [
        Fault(reasons.get(name, BAD_VALUE), name, EXPECTED[name], unreadable(parsed, name))
        for name in ("items", "propensities", "sources", "scores", "candidates", "candidate_scores")
    ]


def _item_faults(parsed: Parsed) -> list[Fault]:
    """Return where items or candidates are not distinct ids, or an item is none of the candidates."""
    items, candidates = (_one(parsed, name) for name in ("items", "candidates"))
    ids_E = pa.concat_arrays([items.flatten(), candidates.flatten()])
    ranks_E, absent_E = string_ranks(ids_E), absent_ids(ids_E)
    rows_E = np.concatenate([row_numbers(_lengths(items)), row_numbers(_lengths(candidates))])
    keys_E = rows_E * (int(ranks_E.max(initial=0)) + 2) + ranks_E
    split = len(items.flatten())
    bad_R = [
        _with(rows_E[part][absent_E[part] | _repeated(keys_E[part])], len(items))
        for part in (slice(split), slice(split, None))
    ]
    alien_R = _with(rows_E[:split][~np.isin(keys_E[:split], keys_E[split:])], len(items))
    known_R = np.asarray(candidates.is_valid())
    empty_R = np.asarray(items.is_null()) | (_lengths(items) == 0)
    return [
        Fault(MALFORMED, "items", "distinct item ids, at least one", empty_R | bad_R[0]),
        *(Fault(BAD_ID, name, f"of each {ID}", _with(_wrong_rows(_one(parsed, name)), len(items))) for name in _NAMES),
        Fault(BAD_VALUE, "candidates", "distinct item ids", bad_R[1]),
        Fault(BAD_VALUE, "candidates", "every item of the page among them", alien_R & known_R),
    ]


def _propensity_fault(parsed: Parsed) -> Fault:
    column = _one(parsed, "propensities")
    good_E = where(pc.and_(pc.greater(column.flatten(), 0), pc.less_equal(column.flatten(), 1)))
    wrong_E = ~good_E & np.asarray(column.flatten().is_valid())
    wrong_R = _with(row_numbers(_lengths(column))[wrong_E], len(column))
    expected = "probabilities in (0, 1], null where one is not known"
    return Fault(BAD_PROPENSITY, "propensities", expected, wrong_R)


def _lengths_fault(parsed: Parsed, name: str, other: str, what: str) -> Fault:
    column = _one(parsed, name)
    differs_R = (_lengths(column) != _lengths(_one(parsed, other))) & np.asarray(column.is_valid())
    return Fault(BAD_VALUE, name, f"one value per {what}", differs_R)


def _score_fault(parsed: Parsed, name: str) -> Fault:
    column = _one(parsed, name)
    infinite_E = where(pc.invert(pc.is_finite(column.flatten())))
    infinite_R = _with(row_numbers(_lengths(column))[infinite_E], len(column))
    return Fault(BAD_VALUE, name, "finite numbers", infinite_R)


def _range_fault(parsed: Parsed, name: str, expected: str, most: float) -> Fault:
    values = parsed.rows.column(name)
    outside_R = where(pc.invert(pc.and_(pc.greater_equal(values, 0.0), pc.less_equal(values, most))))
    return Fault(BAD_VALUE, name, expected, outside_R | unreadable(parsed, name))


def _one(parsed: Parsed, name: str) -> pa.ListArray:
    column = parsed.rows.column(name).combine_chunks()
    return column if isinstance(column, pa.Array) else pa.concat_arrays(column.chunks)


def _lengths(column: pa.ListArray) -> Ints:
    return np.asarray(pc.fill_null(pc.list_value_length(column), 0), dtype=np.int64)


def _wrong_rows(column: pa.ListArray) -> Ints:
    """Return the rows of entries that are no ids."""
    return row_numbers(_lengths(column))[wrong_ids(column.flatten())]


def _with(rows: Ints, size: int) -> Mask:
    """Return which of `size` rows are among some."""
    found_R = np.zeros(size, dtype=bool)
    found_R[rows] = True
    return found_R


def _repeated(keys_E: Ints) -> Mask:
    """Return which entries have a key that an earlier one has."""
    first = np.zeros(len(keys_E), dtype=bool)
    first[np.unique(keys_E, return_index=True)[1]] = True
    return ~first
