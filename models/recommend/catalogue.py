"""The catalogue of a semantic-ID bundle as everybody sees it: the items of one ID in order of recent popularity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from features.semantic_ids import Catalogue
from features.workspace import Workspace
from models.tokenizer.bundle import Bundle


def catalogue_of(bundle: Bundle, workspace: Workspace) -> Catalogue:
    """Return the bundle's catalogue.

    Args:
        bundle: Items and codes.
        workspace: Holds `item_statistics`; items without training events come last.
    """
    statistics = workspace.table("item_statistics").read(["item_id", "recent_popularity"])
    return bundle.catalogue(dict(zip(*(column.to_pylist() for column in statistics.columns), strict=True)))


def plain_catalogue(item_ids: Sequence[str]) -> Catalogue:
    """Return items that have no semantic IDs yet, numbered: for the models that are trained before there are any.

    Example:
        >>> plain_catalogue(["i1", "i2"]).numbers(["i2", "i9"]).tolist()
        [1, -1]
    """
    return Catalogue(item_ids, np.zeros((len(item_ids), 1), dtype=np.int32), (1,))
