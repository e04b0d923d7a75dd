"""Table contracts: the Arrow schema of every table, and the one vocabulary of column names, event kinds and reasons.

Every time is a millisecond timestamp in UTC. Every other module imports these names; none spells a column or an event
kind of its own.
"""

from __future__ import annotations

import hashlib

import pyarrow as pa

TIMESTAMP = pa.timestamp("ms", tz="UTC")
STRING_MAP = pa.map_(pa.string(), pa.string())

IMPRESSION, CLICK, CART, PURCHASE, DISLIKE = "impression", "click", "cart", "purchase", "dislike"
EVENT_KINDS: tuple[str, ...] = (IMPRESSION, CLICK, CART, PURCHASE, DISLIKE)
"""Event kinds from weakest to strongest: the position in this tuple is the event's int8 code in `sequences` and the
strength by which the strongest event of a shown item is chosen. A dislike outranks everything: an item disliked on a
page is history and a filter, never a target."""

EVENT_CODE: dict[str, int] = {kind: code for code, kind in enumerate(EVENT_KINDS)}
POSITIVE_CODES: tuple[int, ...] = (EVENT_CODE[CLICK], EVENT_CODE[CART], EVENT_CODE[PURCHASE])
"""Codes of the events that make an item a target and a history item."""
HISTORY_CODES: tuple[int, ...] = (*POSITIVE_CODES, EVENT_CODE[DISLIKE])
"""Codes of the events that a request's history holds; an impression says what was shown, not what the
user did, and a dislike is there to be filtered by."""

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS: tuple[str, ...] = (TRAIN, VALIDATION, TEST)

EVENTS = pa.schema(
    [
        pa.field("event_id", pa.string()),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("event", pa.string(), nullable=False),
        pa.field("timestamp", TIMESTAMP, nullable=False),
        pa.field("request_id", pa.string()),
        pa.field("session_id", pa.string()),
        pa.field("position", pa.int32()),
        pa.field("propensity", pa.float64()),
        pa.field("policy", pa.string()),
        pa.field("value", pa.float64()),
        pa.field("context", STRING_MAP),
    ]
)
"""One logged event; `event_id` defaults to a hash of user, item, event, timestamp and request. `value` is the price
paid, the seconds watched or the rating; `position` counts from 0."""

ITEMS = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("description", pa.string()),
        pa.field("category", pa.list_(pa.string())),
        pa.field("brand", pa.string()),
        pa.field("price", pa.float64()),
        pa.field("available_from", TIMESTAMP),
        pa.field("available", pa.bool_()),
        pa.field("attributes", STRING_MAP),
    ]
)
"""One catalogue item; `category` is a path, root first."""

USERS = pa.schema([pa.field("user_id", pa.string(), nullable=False), pa.field("attributes", STRING_MAP)])

PAGES = pa.schema(
    [
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("timestamp", TIMESTAMP, nullable=False),
        pa.field("policy", pa.string()),
        pa.field("arm", pa.string()),
        pa.field("release", pa.string()),
        pa.field("catalogue_version", pa.string()),
        pa.field("items", pa.list_(pa.string()), nullable=False),
        pa.field("sources", pa.list_(pa.string())),
        pa.field("scores", pa.list_(pa.float32())),
        pa.field("propensities", pa.list_(pa.float64())),
        pa.field("candidates", pa.list_(pa.string())),
        pa.field("candidate_scores", pa.list_(pa.float32())),
        pa.field("epsilon", pa.float64()),
        pa.field("temperature", pa.float64()),
        pa.field("filters", pa.string()),
        pa.field("context", STRING_MAP),
        pa.field("fallback", pa.string()),
        pa.field("events", pa.list_(pa.string()), nullable=False),
        pa.field("values", pa.list_(pa.float64())),
        pa.field("event_times", pa.list_(TIMESTAMP), nullable=False),
    ]
)
"""One shown page, items in shown order. `events[k]` is the strongest event of item k, `event_times[k]` its time."""

SERVED_PAGES = pa.schema([field for field in PAGES if field.name not in ("events", "values", "event_times")])
"""One page as whoever served it logged it; what became of it is told by the events of its `request_id`."""

FEATURES_READ = pa.schema(
    [
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("timestamp", TIMESTAMP, nullable=False),
        pa.field("state", pa.binary()),
        pa.field("generation", pa.int64()),
        pa.field("position", pa.int64()),
        pa.field("event_time", TIMESTAMP),
        pa.field("items", pa.list_(pa.string()), nullable=False),
        pa.field("item_features", pa.list_(pa.binary())),
        pa.field("item_layout", pa.int64()),
        pa.field("items_read", TIMESTAMP),
    ]
)
"""What the service read to make one page: the packed `state` of the user's features (null: there was none), its version
in the store and the time of the newest event in it; of each item shown its packed features (null: none were known),
their layout, and when the service read them (null: it had not)."""

SEQUENCES = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("page_ids", pa.list_(pa.string()), nullable=False),
        pa.field("page_times", pa.list_(TIMESTAMP), nullable=False),
        pa.field("page_lengths", pa.list_(pa.int32()), nullable=False),
        pa.field("items", pa.list_(pa.string()), nullable=False),
        pa.field("events", pa.list_(pa.int8()), nullable=False),
        pa.field("times", pa.list_(TIMESTAMP), nullable=False),
    ]
)
"""One row per (user, split): the pages of that split only, oldest first.

Jagged in two levels. Page p of a row holds `page_lengths[p]` consecutive entries of `items`, `events`, `times`, in
response order: purchase, cart, click, impression, dislike; ties by event time, then position on the page::

    page_times   [ t0            , t1      ]
    page_lengths [ 3             , 2       ]
    items        [ i7  i2  i9    , i4  i1  ]
    events       [ 3   1   0     , 1   0   ]   codes of EVENT_KINDS

A user's whole history is the concatenation of its train, validation and test rows.
"""

ITEM_STATISTICS = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        *(pa.field(f"{name}s", pa.int64(), nullable=False) for name in EVENT_KINDS),
        pa.field("users", pa.int64(), nullable=False),
        pa.field("popularity", pa.float64(), nullable=False),
        pa.field("recent_popularity", pa.float64(), nullable=False),
        pa.field("first_time", TIMESTAMP, nullable=False),
        pa.field("last_time", TIMESTAMP, nullable=False),
    ]
)
"""Per item, from training pages only: counts by event kind, distinct users with a positive event, `popularity` (number
of positive events) and `recent_popularity` (the same, halved every `pages.popularity_half_life_days`)."""

TRANSITIONS = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("next_item_id", pa.string(), nullable=False),
        pa.field("weight", pa.float64(), nullable=False),
    ]
)
"""Normalised item transition weights, from training pages only."""

TRAINING_PAGES = pa.schema(
    [PAGES.field(name) for name in ("request_id", "user_id", "timestamp", "items", "events", "event_times")]
)
"""Training pages with their positive entries only, in response order."""

TRAINING_COUNTS = pa.schema(
    [
        pa.field("timestamp", TIMESTAMP, nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        *(pa.field(f"{name}s", pa.int64(), nullable=False) for name in EVENT_KINDS),
        pa.field("first_time", TIMESTAMP, nullable=False),
        pa.field("last_time", TIMESTAMP, nullable=False),
    ]
)
"""Per day of training pages and item: how many of its entries are not positive, by event kind."""

DEAD_LETTERS = pa.schema(
    [
        pa.field("table", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string()),
        pa.field("source", pa.string()),
        pa.field("row", pa.string(), nullable=False),
    ]
)
"""A rejected row: the table it was meant for, why, what exactly was wrong, the file it came from, the row as JSON."""

LARGEST_NUMBER = 1e12
"""Larger prices and values are mistakes; the folds hold prices in millionths, as whole numbers of 64 bits."""

# Reasons why a row is rejected (dead letters), merged into another, or left out (counts).
UNKNOWN_EVENT = "unknown_event"
NULL_ID = "null_id"
BAD_ID = "bad_id"
"""An id with control characters, such as a line end, or with more than `MOST_ID_BYTES` (`features.ids`)."""
MOST_ID_BYTES = 512
BAD_TIMESTAMP = "bad_timestamp"
NEGATIVE_PRICE = "negative_price"
BAD_PROPENSITY = "bad_propensity"
BAD_VALUE = "bad_value"
DUPLICATE = "duplicate"
CANCELLATION = "cancellation"
TOO_LATE = "too_late"
"""A streamed row whose time lies further back than `stream.lateness_hours`."""
IN_THE_FUTURE = "in_the_future"
"""A streamed row whose time lies further ahead than `stream.future_minutes`."""
NO_CUSTOMER = "no_customer"
MALFORMED = "malformed"
MERGED = "merged"
"""An importer's record whose content went into another record's row."""
AFTER_SPLIT = "after_split"
"""An item of a page, or a page left without items, whose strongest event came after the end of the page's split."""
NO_POSITIVE = "no_positive"
"""A page without a click, a cart or a purchase."""
NO_SEMANTIC_ID = "no_semantic_id"
SEEN = "seen"
"""A target that its user had before, where seen items are excluded."""
REASONS: tuple[str, ...] = (
    UNKNOWN_EVENT,
    NULL_ID,
    BAD_ID,
    BAD_TIMESTAMP,
    NEGATIVE_PRICE,
    BAD_PROPENSITY,
    BAD_VALUE,
    DUPLICATE,
    TOO_LATE,
    IN_THE_FUTURE,
    CANCELLATION,
    NO_CUSTOMER,
    MALFORMED,
    MERGED,
    AFTER_SPLIT,
    NO_POSITIVE,
    NO_SEMANTIC_ID,
    SEEN,
)

# Raw tables are what a user, an importer or the simulator writes; clean tables are what `validate` lets through.
RAW_TABLES: dict[str, pa.Schema] = {"events": EVENTS, "items": ITEMS, "users": USERS, "served_pages": SERVED_PAGES}
CLEAN_TABLES: dict[str, str] = {name: f"clean_{name}" for name in RAW_TABLES}

TABLES: dict[str, pa.Schema] = {
    **RAW_TABLES,
    **{clean: RAW_TABLES[raw] for raw, clean in CLEAN_TABLES.items()},
    "import_rejects": DEAD_LETTERS,
    "fresh_events": EVENTS,
    "fresh_served_pages": pa.schema([PAGES.field(name) for name in ("request_id", "user_id", "timestamp")]),
    "dead_letters": DEAD_LETTERS,
    "pages": PAGES,
    "sequences": SEQUENCES,
    "training_pages": TRAINING_PAGES,
    "training_counts": TRAINING_COUNTS,
    "item_statistics": ITEM_STATISTICS,
    "transitions": TRANSITIONS,
    "recommendations": PAGES,
}
"""Every table of a workspace by name, but those whose columns are features (`features.definitions.feature_schemas`).
`fresh_events` are those of `clean_events` that the newest `validate` added, `fresh_served_pages` the keys of those of
`clean_served_pages`; `import_rejects` is written by importers,
`dead_letters` by `validate`; `training_pages` and `training_counts` hold those days of `pages` of which item statistics
have nothing to learn any more; `recommendations` holds pages that nobody has seen yet: without events."""

STREAM_POSITION = "stream_position"
_POSITION = pa.field(STREAM_POSITION, pa.int64(), nullable=False)
EVENT_LOG, PAGE_LOG, ITEM_LOG, FEATURE_LOG = "event_log", "page_log", "item_log", "feature_log"
STREAM_DEAD_LETTERS = "stream_dead_letters"
LOG_TABLES: dict[str, pa.Schema] = {
    EVENT_LOG: EVENTS.append(_POSITION),
    PAGE_LOG: PAGES.append(_POSITION),
    ITEM_LOG: ITEMS.append(_POSITION),
    FEATURE_LOG: FEATURES_READ.append(_POSITION),
    STREAM_DEAD_LETTERS: DEAD_LETTERS.append(_POSITION),
}
"""What `pagewise stream` keeps of the event stream (`pipelines.streaming.log`); `stream_position` is that of the last
message that was taken up together with the row. `event_log` also holds an impression for every item of a served
page. A repeated row of `feature_log` is kept: whoever reads it takes one per `request_id`."""


def schema_hash(schema: pa.Schema) -> str:
    """Return a 16-digit hash of names, types and nullability; equal schemas hash equal in every process.

    Example:
        >>> schema_hash(USERS) == schema_hash(pa.schema(list(USERS)))
        True
    """
    return hashlib.sha256(schema.to_string(show_field_metadata=False).encode()).hexdigest()[:16]
