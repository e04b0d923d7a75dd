"""Catalogue items as columns: ids, category path, brand, words of the title, attributes, price.

Legend: `N` items.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.columns import Columns, IdColumn
from features.events import category_prefixes

ITEM_ID, CATEGORY, BRAND, TITLE, LOG_PRICE = "item_id", "category", "brand", "title", "log_price"
ATTRIBUTE = "attribute."
"""An item attribute `colour` is the column `attribute.colour`."""
TITLE_WORDS = 24
"""Distinct words of a title that count."""
_WORD_BREAKS = r"[^\p{L}\p{N}]+"


def item_columns(items: pa.Table) -> Columns:
    """Return the columns of catalogue items.

    Args:
        items: `N` rows of the schema `features.schemas.ITEMS`, in catalogue order (`CatalogueFacts.table`); the columns
            `description`, `available` and `available_from` are not looked at.

    Returns:
        Ids `item_id`, `category` (every prefix of the path, as `Home/Kitchen`), `brand`, `title` (lower-case words) and
        `attribute.<key>`; numbers: `log_price` (log(1 + price)).
    """
    ids = {
        ITEM_ID: IdColumn.of_strings(items.column("item_id")),
        CATEGORY: IdColumn.of_strings(category_prefixes(items.column("category"))),
        BRAND: IdColumn.of_strings(items.column("brand")),
        TITLE: IdColumn.of_strings(title_words(items.column("title"))),
        **attribute_columns(items.column("attributes"), ATTRIBUTE),
    }
    price_N = items.column("price").cast(pa.float64()).to_numpy()
    return Columns(rows=items.num_rows, ids=ids, numbers={LOG_PRICE: np.log1p(price_N).astype(np.float32)})


def title_words(titles: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Return the first distinct lower-case words of each title.

    Example:
        >>> title_words(pa.array(["Red tea-pot, RED"])).to_pylist()
        [['red', 'tea', 'pot']]
    """
    words = pc.split_pattern_regex(pc.utf8_lower(titles.cast(pa.string())), _WORD_BREAKS)
    distinct = [list(dict.fromkeys(word for word in row or () if word))[:TITLE_WORDS] for row in words.to_pylist()]
    return pa.array(distinct, pa.list_(pa.string()))


def attribute_columns(attributes: pa.ChunkedArray | pa.Array, prefix: str) -> dict[str, IdColumn]:
    """Return one column per key of a map<string, string> column, named `prefix + key`, in order of the keys.

    Example:
        >>> maps = pa.array([[("plan", "gold")], None], pa.map_(pa.string(), pa.string()))
        >>> [(name, column.offsets.tolist()) for name, column in attribute_columns(maps, "user.").items()]
        [('user.plan', [0, 1, 1])]
    """
    rows = [dict(row or ()) for row in attributes.to_pylist()]
    keys = sorted({key for row in rows for key, value in row.items() if value is not None})
    return {prefix + key: IdColumn.of_strings(pa.array([row.get(key) for row in rows], pa.string())) for key in keys}
