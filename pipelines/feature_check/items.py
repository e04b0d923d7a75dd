"""Items' features of some pages: what the service had, against the batch table `item_features`.

The service reads features of items now and then, so that they may be those of an earlier midnight: of all midnights
looked at, the one counts at which most of an item's features agree, the newest of several. Only what does not agree
there is a mismatch.
Legend: `R` items of pages, `F` features, `D` midnights, the page's own first.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.definitions import ITEM, features_of
from features.store.feature_codec import features_schema, read_features_payloads
from features.values import ItemSnapshots
from pipelines.batch.arrow import DAY_MS
from pipelines.feature_check.comparing import differences
from pipelines.feature_check.findings import Findings
from pipelines.feature_check.users import tally

READ_COLUMNS = ["request_id", "timestamp", "items", "item_features", "item_layout"]
"""What of `feature_log` this needs."""
SHOWN = pa.schema(
    [
        pa.field("request_id", pa.string()),
        pa.field("item_id", pa.string()),
        pa.field("time", pa.int64()),
        pa.field("features", pa.binary()),
        pa.field("layout", pa.int64()),
    ]
)
"""An item that was shown, and its features as the service had them."""


def shown_items(pages: pa.Table) -> pa.Table:
    """Return the items of pages, a row each; those of which the service knew no features are left out.

    Args:
        pages: `READ_COLUMNS` of `feature_log`.
    """
    pages = pages.filter(pages.column("item_features").is_valid()).combine_chunks()
    if not pages.num_rows:
        return SHOWN.empty_table()
    items = pages.column("items").combine_chunks()
    of_page = pc.list_parent_indices(items)
    rows = pa.table(
        [
            pages.column("request_id").take(of_page),
            pc.list_flatten(items),
            pages.column("timestamp").cast(pa.int64()).take(of_page),
            pc.list_flatten(pages.column("item_features").combine_chunks()),
            pages.column("item_layout").take(of_page),
        ],
        schema=SHOWN,
    )
    return rows.filter(rows.column("features").is_valid())


def check_items(shown: pa.Table, rows: pa.Table, days: int) -> Findings:
    """Check what the service had of some items.

    Args:
        shown: `SHOWN` rows of these items, perhaps some twice.
        rows: Of `item_features`, of these items.
        days: Midnights before the page's own that are looked at.
    """
    chosen, found = features_of(ITEM), Findings()
    readable = np.asarray(pc.equal(shown.column("layout"), features_schema()).fill_null(False))
    once = _distinct(shown)
    found.counts["items.in"] = int(once.sum())
    found.counts["items.other_features"] = int((once & ~readable).sum())
    shown = shown.filter(pa.array(once & readable))
    served = read_features_payloads(shown.column("features").to_pylist())
    if served is None:
        return found
    numbers = shown.column("item_id").combine_chunks().dictionary_encode()
    snapshots = ItemSnapshots.of_rows(rows, numbers.dictionary)
    item, time = np.asarray(numbers.indices, dtype=np.int64), np.asarray(shown.column("time"), dtype=np.int64)
    at_D = [snapshots.at(item, time - back * DAY_MS) for back in range(days + 1)]
    wrong_DR = np.stack([sum(differences(one, served, batch) > 0 for one in chosen) for batch in at_D])
    back = np.argmin(wrong_DR, axis=0)
    found.counts.update({f"items.back_{days_back}": int((back == days_back).sum()) for days_back in range(days + 1)})
    batch = snapshots.at(item, time - back * DAY_MS)
    compared, ids = np.ones(len(item), bool), shown.column("request_id")
    found.features = {one.name: tally(one, served, batch, compared, ids) for one in chosen}
    return found


def _distinct(shown: pa.Table) -> np.ndarray:
    """Return the first row of each item of each page, bool `[R]`."""
    keys = pc.binary_join_element_wise(shown.column("request_id"), shown.column("item_id"), "\x1f")
    _, first = np.unique(np.asarray(pc.index_in(keys, value_set=pc.unique(keys))), return_index=True)
    chosen = np.zeros(shown.num_rows, bool)
    chosen[first] = True
    return chosen
