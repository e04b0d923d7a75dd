"""Item statistics and item transitions of the training entries: per shard of users, then merged per shard of items.

Everything that is added up is an integer (decayed counts in steps of 2**-32, pair weights in units of a common
denominator), because sums of floats would depend on the order of the rows and on the number of shards.
"""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.schemas import EVENT_KINDS, ITEM_STATISTICS, TIMESTAMP, TRANSITIONS
from kernels.jagged import run_starts
from pipelines.batch.arrow import DAY_MS, Ints
from pipelines.batch.config import TransitionsConfig
from pipelines.batch.entries import Entries
from pipelines.batch.split import TRAIN_CODE

DECAY_STEPS = 1 << 32
COUNT_COLUMNS = [f"{kind}s" for kind in EVENT_KINDS]


def training_entries(entries: Entries) -> pa.Table:
    """Select the entries of training pages, sorted by user, time, page and response order.

    Returns:
        Columns `user` (int64, rank within these users), `item_id`, `code`, `time` (milliseconds), `positive`.
    """
    kept = np.flatnonzero(entries.split_P[entries.page_E] == TRAIN_CODE)
    user = entries.user_P[entries.page_E[kept]]
    order = np.lexsort((np.arange(len(kept)), entries.time_E[kept], user))
    kept = kept[order]
    return pa.table(
        {
            "user": user[order],
            "item_id": entries.items_E.take(pa.array(kept)),
            "code": entries.code_E[kept],
            "time": entries.time_E[kept],
            "positive": entries.positive[kept],
        }
    )


def partial_statistics(train: pa.Table, last_time: int, half_life_days: float) -> pa.Table:
    """Add up the entries of some users per item.

    Args:
        train: What `training_entries` returns, of whole users.
        last_time: Time of the last training entry of all users, milliseconds.
        half_life_days: Age at which a positive entry counts half.

    Returns:
        `item_id`, a count per event kind, `users`, `popularity`, `recent` (in steps of 2**-32), `first`, `last`.
    """
    code, time = np.asarray(train.column("code")), np.asarray(train.column("time"))
    positive = np.asarray(train.column("positive"))
    item = train.column("item_id").combine_chunks().dictionary_encode()
    item_E, size = np.asarray(item.indices).astype(np.int64), len(item.dictionary)
    decayed = np.exp2((time - last_time) / (half_life_days * DAY_MS))
    recent = np.where(positive, np.rint(decayed * DECAY_STEPS), 0).astype(np.int64)
    first, last, total = np.full(size, np.iinfo(np.int64).max), np.zeros(size, np.int64), np.zeros(size, np.int64)
    np.minimum.at(first, item_E, time)
    np.maximum.at(last, item_E, time)
    np.add.at(total, item_E, recent)
    pairs = np.unique(np.asarray(train.column("user"))[positive] * size + item_E[positive])
    counts = {name: np.bincount(item_E[code == kind], minlength=size) for kind, name in enumerate(COUNT_COLUMNS)}
    return pa.table(
        {
            "item_id": item.dictionary,
            **counts,
            "users": np.bincount(pairs % max(size, 1), minlength=size),
            "popularity": np.bincount(item_E[positive], minlength=size),
            "recent": total,
            "first": first,
            "last": last,
        }
    )


def merge_statistics(partial: pa.Table) -> pa.Table:
    """Merge partial statistics of one shard of items into rows of `item_statistics`, sorted by item id."""
    sums = [*COUNT_COLUMNS, "users", "popularity", "recent"]
    aggregations = [*((name, "sum") for name in sums), ("first", "min"), ("last", "max")]
    merged = partial.group_by("item_id", use_threads=False).aggregate(aggregations).sort_by("item_id")
    recent = np.asarray(merged.column("recent_sum")) / DECAY_STEPS
    columns = {
        "item_id": merged.column("item_id"),
        **{name: merged.column(f"{name}_sum") for name in (*COUNT_COLUMNS, "users")},
        "popularity": merged.column("popularity_sum").cast(pa.float64()),
        "recent_popularity": pa.array(recent),
        "first_time": merged.column("first_min").cast(TIMESTAMP),
        "last_time": merged.column("last_max").cast(TIMESTAMP),
    }
    return pa.table(columns, schema=ITEM_STATISTICS)


def pair_units(train: pa.Table, max_distance: int) -> pa.Table:
    """Add up `W[a, b] + W[b, a] / 2` over some users, where `W[a, b]` sums 1 / distance for b after a.

    Returns:
        `item_id`, `next_item_id`, `units` (int64, in units of 1 / `unit_scale(max_distance)`).
    """
    positive = train.filter(train.column("positive"))
    user = np.asarray(positive.column("user"))
    item = positive.column("item_id").combine_chunks().dictionary_encode()
    item_E, size = np.asarray(item.indices).astype(np.int64), max(len(item.dictionary), 1)
    keys, units = [], []
    for distance in range(1, max_distance + 1):
        earlier, later = item_E[:-distance], item_E[distance:]
        pair = (user[:-distance] == user[distance:]) & (earlier != later)
        weight = unit_scale(max_distance) // distance
        for source, target, unit in ((earlier, later, weight), (later, earlier, weight // 2)):
            keys.append(source[pair] * size + target[pair])
            units.append(np.full(int(pair.sum()), unit, dtype=np.int64))
    distinct, sums = _sum_by_key(np.concatenate(keys), np.concatenate(units))
    return pa.table(
        {
            "item_id": item.dictionary.take(pa.array(distinct // size)),
            "next_item_id": item.dictionary.take(pa.array(distinct % size)),
            "units": sums,
        }
    )


def merge_transitions(units: pa.Table, popularity: pa.Table, config: TransitionsConfig) -> pa.Table:
    """Normalise the pairs of one shard of items.

    `weight(a -> b) = (W[a, b] + W[b, a] / 2) / sqrt((n_a + smoothing) (n_b + smoothing))`, n = positive
    training entries.

    Args:
        units: Concatenated results of `pair_units`.
        popularity: `item_id` and `popularity` of all items that occur.
        config: Distance and smoothing.

    Returns:
        Rows of `transitions`, sorted by item id, then heaviest first, then next item id.
    """
    merged = units.group_by(["item_id", "next_item_id"], use_threads=False).aggregate([("units", "sum")])
    counts = np.asarray(popularity.column("popularity"), dtype=np.float64) + config.smoothing
    ids = popularity.column("item_id").combine_chunks()
    count_a, count_b = (
        counts[np.asarray(pc.index_in(merged.column(name), ids))] for name in ("item_id", "next_item_id")
    )
    total = np.asarray(merged.column("units_sum")) / unit_scale(config.max_distance)
    columns = [merged.column("item_id"), merged.column("next_item_id"), pa.array(total / np.sqrt(count_a * count_b))]
    rows = pa.table(columns, schema=TRANSITIONS)
    return rows.sort_by([("item_id", "ascending"), ("weight", "descending"), ("next_item_id", "ascending")])


def unit_scale(max_distance: int) -> int:
    """Return the denominator that makes 1 / distance and half of it whole numbers.

    Example:
        >>> unit_scale(3)
        12
    """
    return 2 * math.lcm(*range(1, max_distance + 1))


def _sum_by_key(keys: Ints, values: Ints) -> tuple[Ints, Ints]:
    if not len(keys):
        return keys, values
    order = np.argsort(keys, kind="stable")
    starts = run_starts(keys[order])
    return keys[order][starts], np.add.reduceat(values[order], starts)
