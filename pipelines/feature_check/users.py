"""Users' features of some pages: what the service read, against what batch finds in the events before each page.

Values of pages whose state had all events that batch knows (`moments.CURRENT`) must equal batch's. Left out, and
counted: pages whose state is of other features, or further than the log that batch has read.
Legend: `R` pages.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.columns import Columns
from features.definitions import USER, Feature, features_of, memories_of, state_layout
from features.events import Events, ItemKeys
from features.schemas import STREAM_POSITION
from features.values import finish_users, from_table
from pipelines.batch.arrow import milliseconds
from pipelines.batch.folding import numbered, page_features
from pipelines.feature_check.comparing import Mask, defaults, differences
from pipelines.feature_check.drift import histogram
from pipelines.feature_check.findings import EXAMPLES, Findings, Tally
from pipelines.feature_check.moments import BEHIND, CURRENT, Arrivals, Moments

READ_COLUMNS = ["request_id", "user_id", "timestamp", "state", "position", "event_time"]
"""What of `feature_log` this needs."""
ARRIVAL_COLUMNS = ["user_id", "timestamp", STREAM_POSITION]
"""What of `event_log` this needs."""
_LAYOUT_BYTES = 8


def check_users(
    pages: pa.Table,
    events: pa.Table,
    arrivals: pa.Table,
    keys: ItemKeys,
    *,
    covered: int,
    lag_ms: int,
) -> Findings:
    """Check what was read of the users of some pages.

    Args:
        pages: `READ_COLUMNS` of all logged pages of these users, perhaps some twice.
        events: `pipelines.batch.folding.EVENT_COLUMNS` of all their events that count for any page.
        arrivals: `ARRIVAL_COLUMNS` of what the stream took up of them lately.
        keys: Of the catalogue.
        covered: Position of the stream up to which its events are in the tables.
        lag_ms: Milliseconds by which the store may lag behind.
    """
    found, chosen = Findings(), features_of(USER)
    reads = _checkable(pages, covered, found)
    if not reads.num_rows:
        return found
    ids = pa.chunked_array([*reads.column("user_id").chunks, *events.column("user_id").chunks])
    users, entity = numbered(ids)
    happened = Events.of_rows(events, entity[reads.num_rows :], keys)
    batch = from_table(page_features(reads, users, happened), chosen)
    served = finish_users(reads.column("state").to_pylist(), milliseconds(reads.column("timestamp")))
    reach = max(memory.keep_ms for memory in memories_of(chosen))
    moments = Moments.of(reads, entity[: reads.num_rows], happened, _arrivals(arrivals, users), reach)
    kinds = moments.kinds(lag_ms)
    for kind, rows in kinds.items():
        found.counts[f"pages.{kind}"] = int(rows.sum())
    found.spans = moments.spans(kinds[BEHIND])
    for feature in chosen:
        named = reads.column("request_id")
        found.features[feature.name] = tally(feature, served, batch, kinds[CURRENT], named)
    return found


def tally(feature: Feature, served: Columns, batch: Columns, compared: Mask, ids: pa.ChunkedArray) -> Tally:
    """Return what there is to say of a feature.

    Args:
        feature: Which.
        served: `R` rows.
        batch: `R` rows.
        compared: Rows that must be equal, bool `[R]`.
        ids: `R` ids, for examples.
    """
    difference = differences(feature, served, batch)
    wrong = (difference > 0) & compared
    finite = difference[wrong & np.isfinite(difference)]
    return Tally(
        rows=served.rows,
        compared=int(compared.sum()),
        mismatched=int(wrong.sum()),
        explained=int(((difference > 0) & ~compared).sum()),
        defaults=int(defaults(feature, served).sum()),
        batch_defaults=int(defaults(feature, batch).sum()),
        largest=float(finite.max(initial=0.0)),
        served=histogram(feature, served),
        examples=tuple(sorted(pc.unique(ids.filter(pa.array(wrong))).to_pylist())[:EXAMPLES]),
    )


def _checkable(pages: pa.Table, covered: int, found: Findings) -> pa.Table:
    """Return one row per page, those of one user together, without what cannot be checked."""
    order = [(name, "ascending") for name in ("user_id", "timestamp", "request_id")]
    pages = pages.sort_by(order)
    distinct = pc.index_in(pages.column("request_id"), value_set=pc.unique(pages.column("request_id")))
    _, first = np.unique(np.asarray(distinct), return_index=True)
    reads = pages.take(pa.array(np.sort(first)))
    layout = state_layout().to_bytes(_LAYOUT_BYTES, "little")
    other = np.array([state is not None and state[:_LAYOUT_BYTES] != layout for state in reads["state"].to_pylist()])
    beyond = np.asarray(reads.column("position").fill_null(0)) > covered
    found.counts["pages.in"] = reads.num_rows
    found.counts["pages.repeated"] = pages.num_rows - reads.num_rows
    found.counts["pages.other_features"] = int(other.sum())
    found.counts["pages.not_in_batch_yet"] = int((beyond & ~other).sum())
    return reads.filter(pa.array(~(other | beyond)))


def _arrivals(rows: pa.Table, users: pa.Array) -> Arrivals:
    """Return arrivals of these users, numbered as they are."""
    rows = rows.filter(pc.is_in(rows.column("user_id"), value_set=users))
    return Arrivals(
        entity=np.asarray(pc.index_in(rows.column("user_id"), value_set=users), dtype=np.int64),
        time=milliseconds(rows.column("timestamp")),
        position=np.asarray(rows.column(STREAM_POSITION), dtype=np.int64),
    )
