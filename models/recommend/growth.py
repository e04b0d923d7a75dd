"""Items that a catalogue gets after training, and how the parts of a page maker take them in.

New items stand behind those there are, so that every number given out stays right: models with a row per item know the
new ones as unseen.
Legend: `N` items before, `M` new ones, `D` width of a two-tower vector.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol, Self, TypeVar, cast, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.columns import Columns
from features.semantic_ids import Catalogue

Part = TypeVar("Part")


@runtime_checkable
class GrowingEncoder(Protocol):
    """A user encoder that keeps something for each item that histories may hold."""

    def with_new_items(self, item_ids: pa.Array, columns: Columns) -> Self:
        """Return this encoder knowing further items; it stays as it is."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class NewItems:
    """What is known of new items.

    Attributes:
        catalogue: Of all `N + M` items, the new ones last.
        columns: `item_columns` of the new ones, `M` rows.
        vectors_MD: Their vectors by the release's item tower; None without a two-tower.
        item_features: Values of their item features by now, `M` rows; None where there are none.
    """

    catalogue: Catalogue
    columns: Columns
    vectors_MD: npt.NDArray[np.float32] | None
    item_features: Columns | None = None
    _encoders: dict[int, tuple[object, object]] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return self.columns.rows

    @property
    def ids(self) -> pa.Array:
        """Ids of the new items."""
        return self.catalogue.item_ids[len(self.catalogue) - len(self) :]

    def encoder(self, encoder: Part) -> Part:
        """Return a user encoder that knows the new items, the same one to all who share the old one."""
        if not isinstance(encoder, GrowingEncoder):
            return encoder
        if id(encoder) not in self._encoders:
            self._encoders[id(encoder)] = encoder, encoder.with_new_items(self.ids, self.columns)
        return cast(Part, self._encoders[id(encoder)][1])


@runtime_checkable
class Growing(Protocol):
    """A retriever or ranker that keeps something for each item."""

    def with_new_items(self, new: NewItems) -> Self:
        """Return the same with further items; it stays as it is, and shares what does not change."""
        ...


def grown(part: Part, new: NewItems) -> Part:
    """Return a part of a page maker that knows the new items; one that keeps nothing for each item stays as it is."""
    return part.with_new_items(new) if isinstance(part, Growing) else part
