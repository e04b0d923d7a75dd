"""Requests as columns: the user, the moment, and what the request itself carries.

Legend: `B` requests.
"""

from __future__ import annotations

import pyarrow as pa

from features.columns import Columns, IdColumn
from models.recommend.interface import RequestBatch

USER_ID, HOUR, WEEKDAY = "user_id", "hour", "weekday"
USER, CONTEXT = "user.", "context."
"""A user attribute `plan` is the column `user.plan`, a context entry `device` the column `context.device`."""
HOUR_MS = 3_600_000
_THURSDAY = 3
"""1970-01-01, counted from Monday = 0."""


def request_columns(requests: RequestBatch) -> Columns:
    """Return `requests.columns` and the columns that follow from user and time.

    Returns:
        Beside what the requests carry: ids `user_id`, `hour` (of the day, UTC) and `weekday` (Monday = 0).
    """
    hours_B = requests.times_B // HOUR_MS
    moment = {
        USER_ID: pa.array(requests.user_ids, pa.string()),
        HOUR: pa.array(hours_B % 24).cast(pa.string()),
        WEEKDAY: pa.array((hours_B // 24 + _THURSDAY) % 7).cast(pa.string()),
    }
    own = Columns(rows=len(requests), ids={name: IdColumn.of_strings(values) for name, values in moment.items()})
    return own if requests.columns is None else own.with_columns(requests.columns)
