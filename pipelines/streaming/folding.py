"""What a range does to the online store, shard by shard; repeating it changes nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.definitions import ITEM, features_of, memories_of
from features.events import ItemKeys
from features.online.config import OnlineConfig
from features.online.item_buckets import BUCKETS, KeysOf, bucket_of, fold_waiting, put_items
from features.online.items import item_rows, refresh_items
from features.online.pairs import PAIR_ROWS
from features.online.recent import NO_KEYS
from features.online.users import fold_users
from features.schemas import EVENTS, IMPRESSION, ITEMS, PAGES
from features.store.base import Version
from features.store.config import StoreConfig
from features.store.filling import item_facts
from features.store.redis_store import RedisStore
from features.stream.base import EventStream
from features.stream.config import StreamConfig
from features.stream.opening import open_stream
from kernels.hashing import combine_hashes, hash_strings, hex_digits
from kernels.jagged import IntArray
from kernels.ranks import string_ranks
from pipelines.batch.arrow import DAY_MS
from pipelines.streaming.item_keys import CatalogueKeys, note_changes
from pipelines.streaming.log import NOTHING, Range
from pipelines.streaming.page_checks import implied_impressions
from pipelines.streaming.page_keys import fresh_pages


@dataclasses.dataclass(frozen=True, kw_only=True)
class Folding:
    """What a worker must know to fold a piece of a range.

    Attributes:
        taken: The range; `NOTHING` while it is not known.
        generation: Of the store's keys that is folded into.
        store_url: Of the store, for `RedisStore`.
        store: Its options; the stream lies in the same namespace.
        stream: The stream's options.
        online: Of the folds.
    """

    taken: Range = NOTHING
    generation: int = 0
    store_url: str
    store: StoreConfig
    stream: StreamConfig
    online: OnlineConfig

    @property
    def version(self) -> Version:
        """Version of everything that the range writes."""
        return Version(self.generation, self.taken.last)

    @property
    def midnight_ms(self) -> int:
        """The newest midnight (00:00 UTC) before the newest event of earlier ranges."""
        return self.taken.watermark // DAY_MS * DAY_MS

    def up_to(self, position: int, watermark: int) -> Folding:
        """Return how to fold what is in the log up to a position; `watermark` as in `Range`."""
        return dataclasses.replace(self, taken=Range(first=0, last=position, opened=0, watermark=watermark))

    def open_store(self) -> RedisStore:
        """Return the store, opened once per process."""
        return _store(self.store_url, self.store)

    def item_keys(self, item_ids: pa.ChunkedArray) -> ItemKeys:
        """Return keys of the catalogue, those of these items among them where the store has facts of them."""
        return _catalogue(self.store_url, self.store).of(self.generation, item_ids)

    def open_stream(self) -> EventStream:
        """Return the stream, opened once per process."""
        return _stream(self.stream, self.store_url, self.store)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoldedShard:
    """What became of the rows of some users.

    Attributes:
        events: Those that are no duplicates, the impressions that pages imply among them.
        pages: Those that are no duplicates.
        of_items: What happened to items, rows of `features.online.items.ITEM_EVENT_ROWS`.
        implied: Number of impressions implied by pages.
        repeated_events: Number of duplicates.
        repeated_pages: Number of duplicates.
    """

    events: pa.Table
    pages: pa.Table
    of_items: pa.Table
    implied: int
    repeated_events: int
    repeated_pages: int


def take_up_items(rows: pa.Table, folding: Folding) -> tuple[pa.Table, int]:
    """Write the facts of items to the store; of several rows of an item the last one counts.

    Returns:
        The rows that count, and how many do not.
    """
    reversed_rows = rows.take(pa.array(np.arange(rows.num_rows)[::-1]))
    _, last = np.unique(string_ranks(reversed_rows.column("item_id")), return_index=True)
    kept = reversed_rows.take(pa.array(last)).cast(ITEMS)
    store = folding.open_store()
    note_changes(store, folding.version)
    store.write_items(item_facts(kept), version=folding.version)
    return kept, rows.num_rows - kept.num_rows


def fold_user_shard(events: pa.Table | None, pages: pa.Table | None, folding: Folding) -> FoldedShard:
    """Fold the events and pages of some users into what the store holds of them, pages as the impressions they are."""
    events = EVENTS.empty_table() if events is None else events
    pages = PAGES.empty_table() if pages is None else pages
    served = _fresh_pages(pages, folding)
    implied = implied_impressions(served)
    rows = _named(pa.concat_tables([events, implied]))
    folded, pairs = _fold(rows, folding)
    return FoldedShard(
        events=folded,
        pages=served,
        of_items=item_rows(folded, pairs),
        implied=implied.num_rows,
        repeated_events=rows.num_rows - folded.num_rows,
        repeated_pages=pages.num_rows - served.num_rows,
    )


def fold_logged(events: pa.Table, pages: pa.Table, folding: Folding) -> pa.Table:
    """Fold rows of the log, which have their ids and impressions, and return what is to be folded by item."""
    _fresh_pages(pages, folding)
    return item_rows(*_fold(events, folding))


def _fresh_pages(pages: pa.Table, folding: Folding) -> pa.Table:
    if not pages.num_rows:
        return pages
    lateness_ms = folding.online.lateness_ms
    fresh = fresh_pages(folding.open_store(), pages, version=folding.version, lateness_ms=lateness_ms)
    return pages.filter(pa.array(fresh))


def _fold(rows: pa.Table, folding: Folding) -> tuple[pa.Table, pa.Table]:
    """Return the rows that are no duplicates, and co-visits."""
    if not rows.num_rows:
        return rows, PAIR_ROWS.empty_table()
    # which of two rows of one key comes first must not depend on how Beam grouped them
    rows = rows.sort_by([("timestamp", "ascending"), ("event_id", "ascending"), ("propensity", "ascending")])
    keys = folding.item_keys(rows.column("item_id"))
    folded = fold_users(folding.open_store(), rows, keys, version=folding.version, config=folding.online)
    return rows.filter(pa.array(folded.fresh)), folded.pairs


def item_shard_of(item_ids: pa.ChunkedArray, folding: Folding) -> IntArray:
    """Return the shard of each item; a bucket of items lies in one shard."""
    return bucket_of(item_ids) % folding.stream.shards


def fold_item_shard(rows: pa.Table, folding: Folding) -> None:
    """Fold what happened to some items (`ITEM_EVENT_ROWS`) into what the store holds of them, when their turn comes."""
    if rows.num_rows:
        store, keys_of = folding.open_store(), _keys_of(folding)
        put_items(store, rows, keys_of, version=folding.version, midnight_ms=folding.midnight_ms)


def fold_waiting_items(midnight_ms: int, folding: Folding, check: Callable[[], None], buckets: int = BUCKETS) -> bool:
    """Fold what still waits for its turn, of all buckets of items or of so many; return whether nothing waits then."""
    store, keys_of, version = folding.open_store(), _keys_of(folding), folding.version
    return fold_waiting(store, keys_of, version=version, midnight_ms=midnight_ms, most=buckets, check=check)


def refresh_item_shard(item_ids: pa.Array, midnight_ms: int, folding: Folding) -> None:
    """Write the features of items as of a midnight that the range has passed."""
    refresh_items(folding.open_store(), item_ids.to_pylist(), version=folding.version, midnight_ms=midnight_ms)


def _named(rows: pa.Table) -> pa.Table:
    """Give each impression of a page the id that says so, whoever speaks of it; others have theirs."""
    shown = pc.and_(pc.equal(rows.column("event"), IMPRESSION), rows.column("request_id").is_valid()).combine_chunks()
    if not pc.any(shown).as_py():
        return rows
    of_pages = rows.filter(shown)
    ids = combine_hashes(*(hash_strings(of_pages.column(name)) for name in ("request_id", "item_id", "event")))
    named = pc.replace_with_mask(rows.column("event_id").combine_chunks(), shown, hex_digits(ids))
    return rows.set_column(rows.schema.get_field_index("event_id"), EVENTS.field("event_id"), named)


def _keys_of(folding: Folding) -> KeysOf:
    """Return what finds the keys of items that features of items need."""
    if any(memory.needs_facts for memory in memories_of(features_of(ITEM))):
        return folding.item_keys
    return lambda item_ids: NO_KEYS


@lru_cache(maxsize=2)
def _catalogue(url: str, config: StoreConfig) -> CatalogueKeys:
    return CatalogueKeys(_store(url, config))


@lru_cache(maxsize=2)
def _store(url: str, config: StoreConfig) -> RedisStore:
    return RedisStore(url, config)


@lru_cache(maxsize=2)
def _stream(config: StreamConfig, store_url: str, store: StoreConfig) -> EventStream:
    return open_stream(config, store_url, store.namespace, store.timeout_s)
