"""What is known of users beside the items they had: their features and attributes, and the context of a request.

All requests get their columns here, in training from tables, in service and batch from what the store holds of a user:
`request_of_users` is the one way from there to a `RequestBatch`, so that service and batch cannot differ.
Legend: `B` requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.columns import Columns
from features.definitions import PAGE_FEATURES
from features.schemas import CLEAN_TABLES, STRING_MAP
from features.semantic_ids import Catalogue
from features.store.base import KnownUsers
from features.values import finish_users, page_columns
from features.workspace import Workspace
from kernels.jagged import offsets_from_lengths, row_numbers
from models.inputs.items import attribute_columns
from models.inputs.requests import CONTEXT, USER
from models.recommend.interface import RequestBatch


def request_of_users(
    users: KnownUsers,
    catalogue: Catalogue,
    times_B: npt.NDArray[np.int64],
    contexts: Sequence[Mapping[str, str] | None] | None = None,
) -> RequestBatch:
    """Turn what is known of users into requests, one each.

    Items outside the catalogue and events that are not strictly before the request are left out.

    Args:
        users: `B` users.
        catalogue: Numbers the items.
        times_B: The moments of the requests, milliseconds; all events in the users' states lie before.
        contexts: `B` contexts, None for none.
    """
    histories = users.histories
    numbers = catalogue.numbers(histories.item_ids)
    rows = row_numbers(np.diff(histories.offsets))
    kept = np.flatnonzero((numbers >= 0) & (histories.times < times_B[rows]))
    size = len(histories)
    return RequestBatch(
        user_ids=list(histories.user_ids),
        times_B=times_B,
        history_items=numbers[kept],
        history_events=histories.events[kept],
        history_times=histories.times[kept],
        history_offsets=offsets_from_lengths(np.bincount(rows[kept], minlength=size)),
        excluded_items=np.zeros(0, dtype=np.int64),
        excluded_offsets=np.zeros(size + 1, dtype=np.int64),
        columns=_columns(
            finish_users(users.states, times_B), _maps(users.attributes), _maps(contexts or [None] * size)
        ),
    )


def columns_of_pages(workspace: Workspace, page_ids: pa.Array, user_ids: pa.Array) -> Columns:
    """Return what was known of users at pages of theirs; what the workspace has no table of is left out.

    Args:
        workspace: Perhaps with the tables `page_features`, `clean_users` and `pages`.
        page_ids: `B` ids.
        user_ids: `B` ids of the users they were shown to.
    """
    has_features = workspace.table(PAGE_FEATURES).exists()
    features = page_columns(workspace, page_ids) if has_features else Columns(rows=len(page_ids))
    attributes = _look_up(workspace, CLEAN_TABLES["users"], "user_id", "attributes", user_ids)
    return _columns(features, attributes, _look_up(workspace, "pages", "request_id", "context", page_ids))


def _columns(features: Columns, attributes: pa.Array, contexts: pa.Array) -> Columns:
    ids = {**attribute_columns(attributes, USER), **attribute_columns(contexts, CONTEXT)}
    return features.with_columns(Columns(rows=features.rows, ids=ids))


def _maps(rows: Sequence[Mapping[str, str] | None]) -> pa.Array:
    return pa.array([None if row is None else list(row.items()) for row in rows], STRING_MAP)


def _look_up(workspace: Workspace, name: str, key: str, column: str, wanted: pa.Array) -> pa.Array:
    """Return the `column` of the rows whose `key` is wanted, null where there is none."""
    table = workspace.table(name)
    if not table.exists():
        return pa.nulls(len(wanted), STRING_MAP)
    rows = table.read([key, column], filter=pc.field(column).is_valid())
    if not rows.num_rows:
        return pa.nulls(len(wanted), STRING_MAP)
    values = rows.column(column).combine_chunks()
    return values.take(pc.index_in(wanted, value_set=rows.column(key).combine_chunks()))
