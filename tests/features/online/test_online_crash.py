"""A fold that dies between any two writes, and is repeated, leaves what an undisturbed one leaves."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable

import numpy as np
import pytest
from online_cases import ITEM_IDS, Stream, deliveries, random_rows

from features.store.base import HISTORY, ITEM_FEATURES, ITEM_STATE, SEEN, STATE, NewBlob

pytestmark = pytest.mark.integration


class PowerCutError(Exception):
    """The process died."""


class DyingStore:
    """A store that dies after so many written blobs; item features count as one."""

    def __init__(self, store, survives: int) -> None:
        self.store, self.left = store, survives

    def read_blobs(self, *arguments, **options):
        return self.store.read_blobs(*arguments, **options)

    def write_blobs(self, blobs: Iterable[NewBlob]) -> int:
        blobs = list(blobs)
        written = self.store.write_blobs(itertools.islice(blobs, self.left))
        self._spend(len(blobs))
        return written

    def write_item_features(self, *arguments, **options) -> None:
        self._spend(1)
        self.store.write_item_features(*arguments, **options)

    def _spend(self, blobs: int) -> None:
        self.left -= blobs
        if self.left < 0:
            raise PowerCutError


def contents(stream: Stream, users: list[str]) -> dict[tuple[str, str], tuple[int, bytes]]:
    """Every blob of the generation: its event time and payload."""
    wanted = [(view, user) for view in (SEEN, STATE, HISTORY) for user in users]
    wanted += [(view, item) for view in (ITEM_STATE, ITEM_FEATURES) for item in ITEM_IDS]
    held = stream.store.read_blobs(wanted, generation=stream.generation)
    return {key: (blob.event_time, blob.payload) for key, blob in zip(wanted, held, strict=True) if blob is not None}


@pytest.mark.parametrize(("seed", "in_turn"), [(0, False), (1, False), (2, True)])
def test_a_fold_may_die_after_any_write(store, seed, in_turn):
    rng = np.random.default_rng(seed)
    rows = random_rows(rng, 120, users=3, days=3)
    ranges = list(deliveries(rng, rows, chunks=3))
    users = sorted(set(rows.column("user_id").to_pylist()))
    calm = Stream(store, store.new_generation(), in_turn=in_turn)
    told = [calm.take(delivery) for delivery in ranges]
    calm.settle(calm.midnight_ms)
    expected, died = contents(calm, users), 0
    for survives in range(0, 40, 1 + 2 * seed):
        shaken = Stream(store, store.new_generation(), in_turn=in_turn)
        for delivery, undisturbed in zip(ranges, told, strict=True):
            before = (shaken.position, shaken.midnight_ms)
            if in_turn:  # as an idle stream does; what dies there is not repeated
                shaken.store = DyingStore(store, survives)
                with contextlib.suppress(PowerCutError):
                    shaken.settle(shaken.midnight_ms)
            try:
                shaken.store = DyingStore(store, survives)
                shaken.take(delivery)
            except PowerCutError:
                died += 1
                shaken.store = store
                shaken.position, shaken.midnight_ms = before
                again = shaken.take(delivery)
                assert again.fresh.tolist() == undisturbed.fresh.tolist()
                assert again.pairs.equals(undisturbed.pairs)
        shaken.store = DyingStore(store, survives)
        with contextlib.suppress(PowerCutError):
            shaken.settle(shaken.midnight_ms)
        shaken.store = store
        shaken.settle(shaken.midnight_ms)
        assert contents(shaken, users) == expected, f"died after {survives} writes"
    assert died >= 20
