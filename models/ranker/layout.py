"""Which features the ranker sees and where their values lie: rows of the shared table, rows of exact ones, numbers.

Decided once, from the training data, and kept with the model. A *side* is a set of rows with features of their own:
requests, items, items at a moment, (request, item) pairs. Each id feature owns *slots* in every row of its side, one
per probe; the vectors of a slot's values are averaged::

    side      user_id     hour   user.interests         two probes, exact, two probes
    slots     0     1     2      3     4
    row 7     [ 90  411 | 1003 | 17 5  88 23 ]          ids of values; from `rows` on they are those of exact tables

Legend: `R` rows of a side, `V` values, `S` slots, `X` numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from features.columns import Columns
from kernels.multiplex import multiplex_rows
from models.ranker.config import RankerConfig

FARTHEST = 4.0
_SMALLEST_SCALE = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class IdFeature:
    """An id feature: rows of the shared table by hashing, or, with a vocabulary, rows of its own.

    Attributes:
        name: The column's name, salt of its hashes.
        probes: Rows per value, 1 for an exact feature.
        vocabulary: Sorted hashes of the values of an exact feature; None for one that is hashed.
        first_row: Its first row among all exact ones, which unknown values share.
    """

    name: str
    probes: int
    vocabulary: tuple[int, ...] | None = None
    first_row: int = 0

    def rows(self, hashes: npt.NDArray[np.uint64], shared_rows: int) -> npt.NDArray[np.int64]:
        """Return the ids of `V` values, int64 `[V, probes]`."""
        if self.vocabulary is None:
            found = [multiplex_rows(self.name, hashes, shared_rows, probe) for probe in range(self.probes)]
            return np.stack(found, axis=1)
        known = np.array(self.vocabulary, dtype=np.uint64)
        place = np.searchsorted(known, hashes)
        there = known[np.minimum(place, len(known) - 1)] == hashes if len(known) else np.zeros(len(hashes), bool)
        return (shared_rows + self.first_row + np.where(there, place + 1, 0))[:, None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NumberFeature:
    """A number: `(sign(x) log(1 + |x|) - mean) / scale`, 0 where absent; `missing` adds whether it is.

    What lies further from the mean than `FARTHEST` scales counts as so far: crosses would multiply it up.
    """

    name: str
    mean: float
    scale: float
    missing: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Side:
    """The features of one kind of rows."""

    ids: tuple[IdFeature, ...] = ()
    numbers: tuple[NumberFeature, ...] = ()

    @property
    def slots(self) -> int:
        """Vectors per row, `S`."""
        return sum(feature.probes for feature in self.ids)

    @property
    def number_width(self) -> int:
        """Numbers per row, `X`, those that say what is missing included."""
        return sum(1 + number.missing for number in self.numbers)

    def width(self, dimensions: int) -> int:
        """Return the width of a row's representation."""
        return self.slots * dimensions + self.number_width

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Side:
        """Read what `dataclasses.asdict` wrote."""
        ids = [
            IdFeature(**{**entry, "vocabulary": None if entry["vocabulary"] is None else tuple(entry["vocabulary"])})
            for entry in document["ids"]
        ]
        return cls(ids=tuple(ids), numbers=tuple(NumberFeature(**entry) for entry in document["numbers"]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """The features of all sides. The first `history` id features of `item` describe history entries, too."""

    request: Side
    item: Side
    moment: Side
    """Items at a moment: the item features of `features.definitions`."""
    pair: Side
    """Numbers of a request and an item together."""
    history: int

    @property
    def history_side(self) -> Side:
        """What is known of an item in a history: the first features of `item`."""
        return Side(ids=self.item.ids[: self.history])

    @property
    def exact_rows(self) -> int:
        """Rows of all exact features together."""
        return sum(1 + len(feature.vocabulary or ()) for feature in self._exact)

    @property
    def unknown_rows(self) -> list[int]:
        """The exact rows that values never met in training share, one of each feature."""
        return [feature.first_row for feature in self._exact]

    @property
    def _exact(self) -> list[IdFeature]:
        features = [*self.request.ids, *self.item.ids, *self.moment.ids]
        return [feature for feature in features if feature.vocabulary is not None]

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Layout:
        """Read what `dataclasses.asdict` wrote."""
        sides = {name: Side.from_json(document[name]) for name in ("request", "item", "moment", "pair")}
        return cls(**sides, history=document["history"])


def make_layout(
    config: RankerConfig,
    *,
    request: Columns,
    item: Columns,
    moment: Columns,
    pair: Columns,
    history: tuple[str, ...],
    moment_R: npt.NDArray[np.integer] | None = None,
) -> Layout:
    """Decide the layout from training data.

    Args:
        config: Which features, how many probes, what is exact.
        request: Columns of the training pages.
        item: Of the catalogue.
        moment: Of the training candidates, what is known of the item at the moment.
        pair: Of the training candidates, numbers only.
        history: Names of the item columns that describe history entries, as far as they are there.
        moment_R: The row of `moment` of each training candidate, every row being that of some; None: one each.

    Raises:
        ValueError: The configuration names a feature that does not exist.
    """
    sides_of = (request, item, moment, pair)
    check_names(config, [name for columns in sides_of for name in (*columns.ids, *columns.numbers)])
    first = [name for name in history if name in item.ids]
    ordered = Columns(
        rows=item.rows,
        ids={name: item.ids[name] for name in [*first, *sorted(item.ids.keys() - set(first))]},
        numbers=item.numbers,
    )
    sides, exact_rows = {}, 0
    for name, columns in (("request", request), ("item", ordered), ("moment", moment), ("pair", pair)):
        sides[name], exact_rows = _side(config, columns, exact_rows, moment_R if name == "moment" else None)
    kept = {feature.name for feature in sides["item"].ids}
    return Layout(**sides, history=len([name for name in first if name in kept]))


def check_names(config: RankerConfig, known: list[str]) -> None:
    """Refuse names of features that do not exist.

    Raises:
        ValueError: With the names that do.
    """
    unknown = sorted((set(config.features) | set(config.probes_of)) - set(known))
    if unknown:
        raise ValueError(
            f"ranker.features, ranker.probes_of: unknown {', '.join(unknown)}; known features: "
            f"{', '.join(sorted(known))}"
        )


def _side(
    config: RankerConfig, columns: Columns, exact_rows: int, rows: npt.NDArray[np.integer] | None
) -> tuple[Side, int]:
    ids = []
    for name, column in columns.ids.items():
        if config.features and name not in config.features:
            continue
        values = np.unique(column.hashes)
        if len(values) <= config.exact_limit:
            vocabulary = tuple(values.tolist())
            ids.append(IdFeature(name=name, probes=1, vocabulary=vocabulary, first_row=exact_rows))
            exact_rows += 1 + len(vocabulary)
        else:
            ids.append(IdFeature(name=name, probes=config.probes_of.get(name, config.probes)))
    chosen = {name: x for name, x in columns.numbers.items() if not config.features or name in config.features}
    values_of = (chosen[name] if rows is None else chosen[name][rows] for name in sorted(chosen))
    scaled = [_number(name, values) for name, values in zip(sorted(chosen), values_of, strict=True)]
    numbers = [number for number in scaled if number is not None]
    return Side(ids=tuple(ids), numbers=tuple(numbers)), exact_rows


def _number(name: str, values_R: npt.NDArray[np.float32]) -> NumberFeature | None:
    """Return the scale of a number; None for one that is always the same: nothing could be learned of other values."""
    missing_R = np.isnan(values_R)
    squashed = squash(values_R[~missing_R]).astype(np.float64)
    mean, scale = (float(squashed.mean()), float(squashed.std())) if len(squashed) else (0.0, 0.0)
    if scale < _SMALLEST_SCALE:
        return None
    return NumberFeature(name=name, mean=mean, scale=scale, missing=bool(missing_R.any()))


def squash(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return `sign(x) log(1 + |x|)`: counts and seconds span orders of magnitude.

    Example:
        >>> squash(np.array([0.0, -1.0], np.float32)).round(3).tolist()
        [0.0, -0.6930000185966492]
    """
    return np.sign(values) * np.log1p(np.abs(values))
