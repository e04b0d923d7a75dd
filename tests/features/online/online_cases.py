"""Random event logs as rows of `events`, as they happened and as they are delivered, and what batch makes of them."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from feature_cases import assert_equal_columns

from features.columns import Columns
from features.definitions import ITEM, PAGE_FEATURES, USER, features_of
from features.events import ItemKeys
from features.online.config import OnlineConfig
from features.online.item_buckets import fold_waiting, put_items
from features.online.items import fold_items, item_rows, refresh_items
from features.online.users import FoldedUsers, fold_users
from features.schemas import EVENT_KINDS, EVENTS, IMPRESSION, ITEMS, TIMESTAMP
from features.store.base import HISTORY, ITEM_FEATURES, STATE, Version
from features.store.codec import EMPTY_HISTORY, join_histories, read_history_payload
from features.store.feature_codec import read_features_payloads
from features.store.histories import histories_of, history_entries
from features.store.redis_store import RedisStore
from features.values import finish_users, from_table, items_without_events, take_or_default
from kernels.hashing import hash_strings
from pipelines.batch.config import PagesConfig
from pipelines.batch.entries import make_entries
from pipelines.batch.folding import co_visit_rows, item_features, page_features, user_events
from pipelines.batch.pages import pages_from_events
from pipelines.batch.sequences import sequences_from_entries
from pipelines.batch.split import Splitter

HOUR, DAY = 3_600_000, 86_400_000
START = 20_000 * DAY
ITEM_IDS = [f"item {number}" for number in range(12)]
CATALOGUE = pa.Table.from_pylist(
    [
        {
            "item_id": item_id,
            "title": item_id,
            "category": [["Home", "Kitchen"], ["Home"], None][number % 3],
            "brand": ["Acme", "Bolt", None][number % 2 + (number == 7)],
            "price": None if number == 5 else 10.0 + number,
        }
        for number, item_id in enumerate(ITEM_IDS[:-2])
    ],
    schema=ITEMS,
)
KEYS = ItemKeys.of_items(CATALOGUE)
LATENESS = 40 * HOUR
CONFIG = OnlineConfig(lateness_hours=48, gap_minutes=30, cap=3, history_length=1000)
Entry = tuple[int, int, str, int]


def events_table(rows: list[dict]) -> pa.Table:
    """Rows of `events`; `event_id` is the row's number where it is left out."""
    return pa.Table.from_pylist([{"event_id": f"e{n}", **row} for n, row in enumerate(rows)], schema=EVENTS)


def random_rows(
    rng: np.random.Generator, size: int, *, users: int = 4, days: float = 5, bursts: float = 0.4
) -> pa.Table:
    """Distinct events in the order of their times; many of one millisecond, a share `bursts` without request ids."""
    moments = START + np.sort(rng.integers(0, round(days * DAY), max(size // 2, 1)))
    moments = np.where(rng.random(len(moments)) < 0.3, np.roll(moments, 1) + 600_000, moments)
    time = np.sort(moments[rng.integers(0, len(moments), size)])
    user = rng.integers(0, users, size)
    item = rng.integers(0, len(ITEM_IDS), size)
    code = rng.choice(len(EVENT_KINDS), size, p=[0.4, 0.25, 0.1, 0.15, 0.1])
    without = rng.random(size) < bursts
    position = np.where(rng.random(size) < 0.5, rng.integers(0, 3, size), -1)
    rows = [
        {
            "event_id": f"e{number}",
            "user_id": f"user {user[number]}",
            "item_id": ITEM_IDS[item[number]],
            "event": EVENT_KINDS[code[number]],
            "timestamp": int(time[number]),
            "request_id": None if without[number] else f"r {user[number]} {time[number] // HOUR}",
            "position": None if position[number] < 0 else int(position[number]),
        }
        for number in range(size)
    ]
    distinct = {(row["request_id"], row["item_id"]) if _is_served(row) else row["event_id"]: row for row in rows}
    return pa.Table.from_pylist(list(distinct.values()), schema=EVENTS)


@dataclasses.dataclass(frozen=True)
class Delivery:
    """One range of the stream: `part` with duplicates, in any order; `so_far` all distinct rows delivered by then."""

    part: pa.Table
    so_far: pa.Table


def deliveries(rng: np.random.Generator, rows: pa.Table, *, chunks: int = 7, late: float = 0.2) -> Iterator[Delivery]:
    """Deliver rows in ranges of random sizes, some of them late, some again."""
    size = rows.num_rows
    delay = np.where(rng.random(size) < late, rng.integers(0, LATENESS, size), 0)
    ordered = rows.take(pa.array(np.argsort(times_of(rows) + delay, kind="stable")))
    cuts = [0, *np.sort(rng.integers(0, size + 1, chunks - 1)).tolist(), size]
    for first, last in itertools.pairwise(cuts):
        if first < last:
            newest = times_of(ordered)[:last].max()
            within = np.flatnonzero(times_of(ordered)[:last] >= newest - LATENESS)
            again = rng.choice(within, 6)
            part = ordered.take(pa.array(rng.permutation(np.append(np.arange(first, last), again))))
            yield Delivery(part, ordered.slice(0, last))


def check_parity(stream: Stream, so_far: pa.Table, rng: np.random.Generator) -> None:
    """Compare all that the stream wrote with what batch finds for the events delivered so far, at random moments."""
    users = sorted(set(so_far.column("user_id").to_pylist()))
    now = times_of(so_far).max() + rng.integers(1, [1000, 3 * DAY], (len(users), 2)).min(axis=1)
    assert_equal_columns(stream.user_features(users, now), batch_user_features(so_far, users, now))
    assert_equal_columns(stream.item_features(), batch_item_features(so_far, stream.midnight_ms))
    expected, pages = batch_histories(so_far, stream.config), batch_pages(so_far, stream.config)
    for user in users:
        assert by_page(stream.history(user), pages) == by_page(expected.get(user, []), pages)


def times_of(rows: pa.Table) -> np.ndarray:
    """Milliseconds of rows."""
    return np.asarray(rows.column("timestamp").cast(pa.int64()), dtype=np.int64)


@dataclasses.dataclass
class Stream:
    """Folds deliveries one after the other, as the streaming pipeline does; items at once, or `in_turn`."""

    store: RedisStore
    generation: int
    config: OnlineConfig = CONFIG
    position: int = 0
    midnight_ms: int = 0
    in_turn: bool = False

    def take(self, delivery: Delivery) -> FoldedUsers:
        """Fold one range, and all items when a midnight has passed."""
        self.position += 1
        version = Version(self.generation, self.position)
        midnight = int(times_of(delivery.so_far).max()) // DAY * DAY
        folded = fold_users(self.store, delivery.part, KEYS, version=version, config=self.config)
        rows = item_rows(delivery.part.filter(pa.array(folded.fresh)), folded.pairs)
        if self.in_turn:
            put_items(self.store, rows, lambda _: KEYS, version=version, midnight_ms=midnight)
        else:
            positions = np.full(rows.num_rows, self.position)
            fold_items(self.store, rows, positions, KEYS, version=version, midnight_ms=midnight)
        if midnight > self.midnight_ms:
            self.settle(midnight)
            refresh_items(self.store, ITEM_IDS, version=version, midnight_ms=midnight)
        self.midnight_ms = midnight
        return folded

    def settle(self, midnight_ms: int) -> None:
        """Fold what waits for its turn."""
        version = Version(self.generation, self.position)
        assert fold_waiting(self.store, lambda _: KEYS, version=version, midnight_ms=midnight_ms)

    def user_features(self, users: list[str], times: np.ndarray) -> Columns:
        """The features that a request at these moments would see."""
        held = self.store.read_blobs([(STATE, user) for user in users], generation=self.generation)
        return finish_users([None if blob is None else blob.payload for blob in held], times)

    def item_features(self) -> Columns:
        """The features of all items."""
        held = self.store.read_blobs([(ITEM_FEATURES, item) for item in ITEM_IDS], generation=self.generation)
        read = read_features_payloads([None if blob is None else blob.payload for blob in held])
        return items_without_events(len(ITEM_IDS)) if read is None else read

    def history(self, user: str) -> list[Entry]:
        """The entries of one user as (time, page, item id, code)."""
        (held,) = self.store.read_blobs([(HISTORY, user)], generation=self.generation)
        part = EMPTY_HISTORY if held is None else read_history_payload(held.payload)
        histories = join_histories([user], [part])
        columns = (histories.times, histories.pages, histories.item_ids.to_pylist(), histories.events)
        return [(int(t), int(p), i, int(c)) for t, p, i, c in zip(*columns, strict=True)]


def batch_user_features(rows: pa.Table, users: list[str], times: np.ndarray) -> Columns:
    """What the batch pipelines find for pages of these users at these moments, `users` sorted."""
    pages = pa.table({"request_id": users, "user_id": users, "timestamp": pa.array(times).cast(TIMESTAMP)})
    table = page_features(pages, *user_events(rows, KEYS))
    assert table.column("user_id").to_pylist() == users, PAGE_FEATURES
    return from_table(table, features_of(USER))


def batch_item_features(rows: pa.Table, midnight_ms: int) -> Columns:
    """What the batch pipelines find for all items as of a midnight."""
    _, events = user_events(rows, KEYS)
    table = item_features(rows, co_visit_rows(rows, events), KEYS, midnight_ms)
    newest = {item: row for row, item in enumerate(table.column("item_id").to_pylist())}
    places = np.array([newest.get(item, -1) for item in ITEM_IDS])
    values = from_table(table.drop_columns(["item_id", "as_of"]), features_of(ITEM))
    return take_or_default(values, places, features_of(ITEM))


def batch_pages(rows: pa.Table, config: OnlineConfig) -> pa.Table:
    """The pages of these events."""
    return pages_from_events(rows, PagesConfig(gap_minutes=config.gap_minutes, cap=config.cap), by_day=False)


def batch_sequences(rows: pa.Table, config: OnlineConfig) -> pa.Table:
    """The sequences of these events, all in the last split, which hides nothing."""
    splitter = Splitter(validation_ms=0, test_ms=0)
    return sequences_from_entries(make_entries(batch_pages(rows, config), splitter))


def batch_histories(rows: pa.Table, config: OnlineConfig) -> dict[str, list[Entry]]:
    """What the batch pipelines find."""
    sequences = batch_sequences(rows, config)
    found: dict[str, list[Entry]] = {}
    for histories in histories_of(sequences, history_entries(sequences, config.history_length), 1000):
        columns = (histories.times, histories.pages, histories.item_ids.to_pylist(), histories.events)
        entries = [(int(t), int(p), i, int(c)) for t, p, i, c in zip(*columns, strict=True)]
        for user, first, last in zip(histories.user_ids, histories.offsets, histories.offsets[1:], strict=False):
            found[user] = entries[first:last]
    return found


def by_page(entries: list[Entry], pages: pa.Table) -> list[Entry]:
    """Entries of one millisecond on pages that begin together in the order of the pages' hashes; see `histories`."""
    begin = dict(zip(hash_strings(pages.column("request_id")).tolist(), times_of(pages).tolist(), strict=True))
    return sorted(entries, key=lambda entry: (entry[0], begin[entry[1]], entry[1]))


def batch_pairs(rows: pa.Table) -> Counter:
    """How often each co-visit of all events occurs."""
    _, events = user_events(rows, KEYS)
    return Counter(tuple(row.values()) for row in co_visit_rows(rows, events).to_pylist())


def summed_pairs(tables: list[pa.Table]) -> Counter:
    """The same, from what ranges made and took back."""
    sums: Counter = Counter()
    for row in pa.concat_tables(tables).to_pylist():
        count = row.pop("count")
        sums[tuple(row.values())] += count
    return Counter({pair: count for pair, count in sums.items() if count})


def _is_served(row: dict) -> bool:
    return row["event"] == IMPRESSION and row["request_id"] is not None
