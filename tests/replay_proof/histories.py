"""Prints what histories take in a process that judges logged pages: `python tests/replay_proof/histories.py USERS`.

Every user has three pages of ten items, one of which is clicked.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time

import numpy as np
import pyarrow as pa

from features.schemas import CLICK, EVENT_CODE, IMPRESSION, SEQUENCES, TRAIN
from features.semantic_ids import Catalogue
from features.workspace import Workspace
from models.recommend.requests import PastRequests

PAGES, SHOWN, ITEMS, SHARDS = 3, 10, 20_000, 16
MEGABYTE = 1e6


def catalogue() -> Catalogue:
    """Return 20,000 items."""
    number = np.arange(ITEMS)
    return Catalogue([f"item{one:08d}" for one in number], np.stack([number // 200, number % 200], axis=1), (100, 200))


def shard(first: int, users: int, ids: pa.Array) -> pa.Table:
    """Return rows of so many users from a number on."""
    rng = np.random.default_rng(first)
    times = np.sort(rng.integers(0, 10**9, (users, PAGES)), axis=1)
    flat = {
        "page_ids": pa.array(np.arange(first * PAGES, (first + users) * PAGES)).cast(pa.string()),
        "page_times": times.ravel(),
        "page_lengths": np.full(users * PAGES, SHOWN),
        "items": ids.take(pa.array(rng.integers(0, ITEMS, users * PAGES * SHOWN))),
        "events": np.tile([EVENT_CODE[CLICK]] + [EVENT_CODE[IMPRESSION]] * (SHOWN - 1), users * PAGES),
        "times": np.repeat(times.ravel(), SHOWN),
    }
    columns = {
        "user_id": pa.array([f"user{one:09d}" for one in range(first, first + users)]),
        "split": pa.repeat(TRAIN, users),
    }
    for name, values in flat.items():
        array = values if isinstance(values, pa.Array) else pa.array(values)
        offsets = pa.array(np.arange(users + 1) * (len(array) // users), pa.int32())
        columns[name] = pa.ListArray.from_arrays(offsets, array.cast(SEQUENCES.field(name).type.value_type))
    return pa.table(columns, SEQUENCES)


def written(workspace: Workspace, users: int) -> None:
    """Write `sequences`, in a process of its own, which leaves nothing in this one."""
    if child := os.fork():
        os.waitpid(child, 0)
        return
    table, ids, size = workspace.table("sequences"), catalogue().item_ids, users // SHARDS
    table.commit([table.write_part(shard(size * part, size, ids), shard=part) for part in range(SHARDS)])
    os._exit(0)


def main() -> None:
    """Write histories of so many users, read them as a replay does, and say what that took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("users", type=int, metavar="USERS")
    users = parser.parse_args().users // SHARDS * SHARDS
    with tempfile.TemporaryDirectory() as folder:
        workspace, items = Workspace(folder), catalogue()
        written(workspace, users)
        before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, time.process_time()
        past = PastRequests(workspace.table("sequences").dataset(), items)
        seconds, peak = time.process_time() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        f"{users:,} users, {users * PAGES:,} history entries of {users * PAGES * SHOWN:,} shown items: held "
        f"{past.nbytes / MEGABYTE:,.0f} MB, {past.nbytes / users:.0f} bytes per user; at the peak "
        f"{(peak - before) / MEGABYTE:,.0f} MB more than before, {(peak - before) / users:,.0f} bytes per user; "
        f"{seconds:.1f} s"
    )


if __name__ == "__main__":
    main()
