"""A stream that goes on from a back-fill, against batch over all events."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from feature_cases import assert_equal_columns
from online_cases import (
    CATALOGUE,
    CONFIG,
    DAY,
    ITEM_IDS,
    KEYS,
    Stream,
    batch_item_features,
    batch_sequences,
    check_parity,
    deliveries,
    random_rows,
    times_of,
)

from features.online.backfill import backfill_online
from features.online.items import refresh_items
from features.store.base import Version
from features.store.histories import histories_of, history_entries
from features.workspace import Workspace
from pipelines.batch.folding import user_events, user_states


@pytest.mark.parametrize("seed", range(4))
def test_the_stream_goes_on_exactly(store, tmp_path, seed):
    rng = np.random.default_rng(seed)
    rows = random_rows(rng, 200, days=[4, 40][seed % 2])
    ranges = list(deliveries(rng, rows, chunks=5))
    covered, *coming = ranges[len(ranges) // 2 - 1 :]
    version = Version(store.new_generation(), 7)
    _fill(store, covered.so_far, version)
    workspace = _workspace(tmp_path, covered.so_far)
    report = backfill_online(workspace, store, version=version, config=CONFIG)
    newest = int(times_of(covered.so_far).max())
    assert report.midnight_ms == newest - newest % DAY
    assert report.items == len(set(covered.so_far.column("item_id").to_pylist()))
    stream = Stream(store, version.generation, position=version.position, midnight_ms=report.midnight_ms)
    refresh_items(store, ITEM_IDS, version=version, midnight_ms=report.midnight_ms)
    assert_equal_columns(stream.item_features(), batch_item_features(covered.so_far, report.midnight_ms))
    for delivery in coming:
        stream.take(delivery)
        check_parity(stream, delivery.so_far, rng)


def test_nothing_happened_yet(store, tmp_path):
    version = Version(store.new_generation(), 0)
    report = backfill_online(_workspace(tmp_path, CATALOGUE_EVENTS), store, version=version, config=CONFIG)
    assert (report.users, report.items) == (0, 0)


def test_a_check_that_fails_ends_the_writing(store, tmp_path):
    def lost() -> None:
        raise RuntimeError("lease lost")

    workspace = _workspace(tmp_path, random_rows(np.random.default_rng(0), 20))
    with pytest.raises(RuntimeError, match="lease lost"):
        backfill_online(workspace, store, version=Version(store.new_generation(), 0), config=CONFIG, check=lost)


CATALOGUE_EVENTS = random_rows(np.random.default_rng(0), 1).slice(0, 0)


def _workspace(folder, rows: pa.Table) -> Workspace:
    workspace = Workspace(folder)
    for name, content in (("clean_events", rows), ("clean_items", CATALOGUE)):
        table = workspace.table(name)
        table.commit([table.write_part(content, shard=0)])
    return workspace


def _fill(store, rows: pa.Table, version: Version) -> None:
    """Write what `features.store.filling` writes of users."""
    users, events = user_events(rows, KEYS)
    states = user_states(users, events)
    store.write_states(users.to_pylist(), states.column("state").to_pylist(), version=version)
    sequences = batch_sequences(rows, CONFIG)
    for histories in histories_of(sequences, history_entries(sequences, CONFIG.history_length), 1000):
        store.write_histories(histories, version=version)
