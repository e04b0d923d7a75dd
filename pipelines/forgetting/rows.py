"""Which rows of a table say something of the persons that are to be forgotten.

Legend: `R` rows.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.batch.arrow import Mask
from pipelines.batch.raw import json_object

USER_ID, ROW = "user_id", "row"


def holds_persons(schema: pa.Schema) -> bool:
    """Whether rows of this schema may say something of a person: by id, or as they came."""
    return not {USER_ID, ROW}.isdisjoint(schema.names)


def doomed_columns(schema: pa.Schema) -> list[str]:
    """Return the columns that `doomed_rows` looks at."""
    return [USER_ID] if USER_ID in schema.names else [ROW]


def doomed_rows(rows: pa.Table, users: Collection[str]) -> Mask:
    """Return which rows are about one of these users, bool `[R]`.

    A rejected row that could be read is about whom its `user_id` names; one that could not is taken to be about
    everybody whose id it contains.
    """
    if USER_ID in rows.column_names:
        return np.asarray(pc.is_in(rows.column(USER_ID), value_set=pa.array(sorted(users), pa.string())))
    return np.array([is_about(text, users) for text in rows.column(ROW).to_pylist()], dtype=bool)


def is_about(text: str, users: Collection[str]) -> bool:
    """Return whether a row, as it came, is about one of these users.

    Example:
        >>> is_about('{"user_id": "ann"}', {"ann"}), is_about('{"user_id": "bob", "item_id": "ann"}', {"ann"})
        (True, False)
        >>> is_about('{"user_id": "ann", "it', {"ann"})
        True
    """
    record = json_object(text)
    if record is None or USER_ID not in record:
        return any(user in text for user in users)
    return str(record[USER_ID]) in users
