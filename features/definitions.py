"""The one table of features.

A new feature is one more entry of `FEATURES`: schemas, batch tables, readers and models follow from it. Every feature
is a fold (`features.folds`) over the events of its entity that lie strictly before a moment. To add one, choose a fold,
or write one, and say what it folds.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Sequence

import pyarrow as pa

from features.events import BRAND, CATEGORY, ITEM_ID, PRICE
from features.folds import (
    DAY_MS,
    HOUR_MS,
    IDS,
    NUMBER,
    WEIGHTS,
    Affinity,
    CountOf,
    Fold,
    HoursSince,
    LastItems,
    MedianPrice,
    Rate,
    Trend,
)
from features.memories import CO_VISITS, Counts, Memory, Newest
from features.schemas import (
    CART,
    CLICK,
    DISLIKE,
    EVENT_CODE,
    EVENT_KINDS,
    HISTORY_CODES,
    IMPRESSION,
    ITEMS,
    POSITIVE_CODES,
    PURCHASE,
    TIMESTAMP,
)

USER, ITEM = "user", "item"
CROSSES: dict[str, tuple[str, ...]] = {NUMBER: (PRICE,), WEIGHTS: (CATEGORY, BRAND, ITEM_ID), IDS: ()}
"""What of a candidate item a user feature of each kind can be held against."""
PAGE_FEATURES, ITEM_FEATURES = "page_features", "item_features"
USER_STATES, ITEM_STATES = "user_states", "item_states"
_STATE_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Feature:
    """One feature."""

    name: str
    """Its column, in tables and models."""
    entity: str
    """Whose it is: `user` or `item`."""
    fold: Fold
    """How it is computed."""
    default: float = float("nan")
    """A `number` where nothing is known; ids and weights are empty then."""
    cross: str | None = None
    """Of a user's weights: the column of the candidate item by which they are looked up (`category`, `brand`,
    `item_id`); of a user's number: the number of the item that is held against it (`price`)."""

    def __post_init__(self) -> None:
        crosses = (None, *CROSSES[self.kind]) if self.entity == USER else (None,)
        checks = (
            (self.name.isidentifier(), f"name: expected an identifier, got {self.name!r}"),
            (self.entity in (USER, ITEM), f"entity: expected {USER} or {ITEM}, got {self.entity!r}"),
            (
                self.cross in crosses,
                f"cross: expected one of {', '.join(map(str, crosses))} for {self.kind} of {self.entity}s, "
                f"got {self.cross!r}",
            ),
            (
                self.entity == ITEM or self.fold.memory.stream != CO_VISITS,
                f"fold: co-visits are events of items, got entity {self.entity!r}",
            ),
            (
                self.entity == USER or DAY_MS % getattr(self.fold.memory, "bucket_ms", DAY_MS) == 0,
                "fold: item features are taken every midnight, expected buckets that divide a day",
            ),
        )
        mistakes = [message for passed, message in checks if not passed]
        if mistakes:
            raise ValueError(f"feature {self.name!r}: {'; '.join(mistakes)}")

    @property
    def kind(self) -> str:
        """`number`, `ids` or `weights`."""
        return self.fold.kind

    @property
    def ttl_s(self) -> int:
        """Seconds after which an event counts no more."""
        return self.fold.memory.keep_ms // 1000


WINDOWS: dict[str, tuple[int, int]] = {
    "1h": (HOUR_MS, 5 * 60_000),
    "1d": (DAY_MS, HOUR_MS),
    "7d": (7 * DAY_MS, 6 * HOUR_MS),
}
"""Window of the counts -> its length and the width of its buckets for users, milliseconds."""
_ALL = tuple(range(len(EVENT_KINDS)))
_ITEM_BUCKETS = {"1h": HOUR_MS, "1d": HOUR_MS, "7d": DAY_MS}
_STRENGTHS = {EVENT_CODE[CLICK]: 1.0, EVENT_CODE[CART]: 2.0, EVENT_CODE[PURCHASE]: 4.0}
_HISTORY = Newest(codes=HISTORY_CODES, keep_ms=90 * DAY_MS, length=10)
_SHOWN = Newest(codes=(EVENT_CODE[IMPRESSION],), keep_ms=DAY_MS, length=10)


def _counts(entity: str, window: str) -> Counts:
    length, bucket = WINDOWS[window]
    return Counts(codes=_ALL, keep_ms=length, bucket_ms=bucket if entity == USER else _ITEM_BUCKETS[window])


def _affinity(key: str) -> Affinity:
    memory = Counts(codes=POSITIVE_CODES, keep_ms=60 * DAY_MS, bucket_ms=DAY_MS, key=key)
    return Affinity(memory=memory, half_life_ms=14 * DAY_MS, strengths=_STRENGTHS, top=16)


FEATURES: tuple[Feature, ...] = (
    *(
        Feature(
            name=f"last_{kind}s",
            entity=USER,
            fold=LastItems(memory=_SHOWN if kind == IMPRESSION else _HISTORY, code=EVENT_CODE[kind]),
        )
        for kind in EVENT_KINDS
    ),
    *(
        Feature(
            name=f"{entity}_{kind}s_{window}",
            entity=entity,
            fold=CountOf(memory=_counts(entity, window), code=EVENT_CODE[kind]),
            default=0.0,
        )
        for entity in (USER, ITEM)
        for window in WINDOWS
        for kind in EVENT_KINDS
    ),
    *(
        Feature(
            name=f"hours_since_{kind}", entity=USER, fold=HoursSince(memory=_HISTORY, codes=codes), default=90.0 * 24
        )
        for kind, codes in (
            ("event", HISTORY_CODES),
            *((kind, (EVENT_CODE[kind],)) for kind in (CLICK, CART, PURCHASE, DISLIKE)),
        )
    ),
    Feature(name="category_affinity", entity=USER, fold=_affinity(CATEGORY), cross=CATEGORY),
    Feature(name="brand_affinity", entity=USER, fold=_affinity(BRAND), cross=BRAND),
    Feature(name="item_affinity", entity=USER, fold=_affinity(ITEM_ID), cross=ITEM_ID),
    Feature(name="median_price", entity=USER, fold=MedianPrice(memory=_HISTORY, codes=POSITIVE_CODES), cross=PRICE),
    Feature(
        name="item_ctr",
        entity=ITEM,
        fold=Rate(
            memory=Counts(codes=(EVENT_CODE[IMPRESSION], EVENT_CODE[CLICK]), keep_ms=28 * DAY_MS, bucket_ms=DAY_MS),
            hit=EVENT_CODE[CLICK],
            shown=EVENT_CODE[IMPRESSION],
            prior=0.05,
            strength=20.0,
        ),
        default=0.05,
    ),
    Feature(
        name="item_trend",
        entity=ITEM,
        fold=Trend(
            memory=Counts(codes=POSITIVE_CODES, keep_ms=7 * DAY_MS, bucket_ms=DAY_MS), recent_ms=DAY_MS, smoothing=1.0
        ),
        default=0.0,
    ),
    Feature(
        name="co_visited",
        entity=ITEM,
        fold=Affinity(
            memory=Counts(codes=POSITIVE_CODES, keep_ms=14 * DAY_MS, bucket_ms=DAY_MS, key=ITEM_ID, stream=CO_VISITS),
            half_life_ms=math.inf,
            strengths=_STRENGTHS,
            top=16,
        ),
    ),
)
"""All features."""

_TYPES: dict[str, pa.DataType] = {
    NUMBER: pa.float32(),
    IDS: pa.list_(pa.uint64()),
    WEIGHTS: pa.list_(pa.struct([pa.field("key", pa.uint64()), pa.field("weight", pa.float32())])),
}


def features_of(entity: str, features: Sequence[Feature] | None = None) -> tuple[Feature, ...]:
    """Return the features of users or of items; the one place where `FEATURES` is looked up.

    Raises:
        ValueError: Two features have one name.
    """
    listed = FEATURES if features is None else features
    names = [feature.name for feature in listed]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"features: expected distinct names, got more than one {', '.join(twice)}")
    return tuple(feature for feature in listed if feature.entity == entity)


def memories_of(features: Sequence[Feature]) -> list[Memory]:
    """Return the distinct memories of these features, in order."""
    return list(dict.fromkeys(feature.fold.memory for feature in features))


def feature_schemas(features: Sequence[Feature] | None = None) -> dict[str, pa.Schema]:
    """Return the schemas of the tables whose columns are features.

    Returns:
        `page_features`: a row per page, user features of events strictly before the page's `timestamp`.
        `item_features`: item features of events strictly before `as_of` (00:00 UTC), for those days on which they
        changed; they hold until the item's next row.
        `user_states`: a row per user: time of the last event, and the packed state of all user features
        (`features.states`).
        `item_states`: a row per item with events: what features of users are keyed by, and the packed state of all
        item features (`pipelines.batch.fold_new`).
    """
    return {
        PAGE_FEATURES: pa.schema(
            [
                pa.field("request_id", pa.string(), nullable=False),
                pa.field("user_id", pa.string(), nullable=False),
                pa.field("timestamp", TIMESTAMP, nullable=False),
                *(pa.field(feature.name, _TYPES[feature.kind]) for feature in features_of(USER, features)),
            ]
        ),
        ITEM_FEATURES: pa.schema(
            [
                pa.field("item_id", pa.string(), nullable=False),
                pa.field("as_of", TIMESTAMP, nullable=False),
                *(pa.field(feature.name, _TYPES[feature.kind]) for feature in features_of(ITEM, features)),
            ]
        ),
        USER_STATES: pa.schema(
            [
                pa.field("user_id", pa.string(), nullable=False),
                pa.field("last_time", TIMESTAMP, nullable=False),
                pa.field("state", pa.binary(), nullable=False),
            ]
        ),
        ITEM_STATES: pa.schema(
            [
                pa.field("item_id", pa.string(), nullable=False),
                *(ITEMS.field(name) for name in (CATEGORY, BRAND, PRICE)),
                pa.field("state", pa.binary(), nullable=False),
            ]
        ),
    }


def state_layout(features: Sequence[Feature] | None = None) -> int:
    """Return the 64 bits that name the layout of packed user states: the memories, in order, and the version.

    A feature that shares another's memory changes nothing; a new memory makes older states unreadable.
    """
    return layout_of(memories_of(features_of(USER, features)))


def layout_of(memories: Sequence[Memory]) -> int:
    """Return the 64 bits that name the layout of packed states of these memories."""
    text = repr((_STATE_VERSION, list(memories)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def features_digest(features: Sequence[Feature] | None = None) -> str:
    """Return 16 digits that name the definitions of all features: tables of other definitions are out of date."""
    text = repr((_STATE_VERSION, features_of(USER, features), features_of(ITEM, features)))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
