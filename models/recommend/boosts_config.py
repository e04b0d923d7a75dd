"""What boosts may be set: conditions on items, and what they do to the score."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CONDITIONS = ("category", "brand", "items", "attribute", "new_days")
"""A boost has at least one of them; an item must fulfil all that it has."""
ITEMS_FILE = "items_file"
"""Stands for `items` until the file is read."""
MOST_TOGETHER = 1e6
"""Bound of what all boosts together may do to one score."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Boost:
    """Multiplies the score of some items by a factor, or adds to it.

    Attributes:
        category: A name anywhere on the item's category path.
        brand: The item's brand.
        items: Item ids.
        attribute: `name=value`, one of the item's attributes.
        new_days: Days for which an item is new, counted from its `available_from`; items without one never are.
        factor: >= 0, only for scores that are not negative.
        addend: In units of the score.
    """

    category: str | None = None
    brand: str | None = None
    items: frozenset[str] | None = None
    attribute: str | None = None
    new_days: float | None = None
    factor: float | None = None
    addend: float | None = None

    def __post_init__(self) -> None:
        mistakes = []
        if all(getattr(self, name) is None for name in CONDITIONS):
            mistakes.append(f"expected a condition, one or more of {', '.join(CONDITIONS)}, got none")
        if (self.factor is None) == (self.addend is None):
            mistakes.append(f"expected either factor or addend, got factor={self.factor}, addend={self.addend}")
        if self.factor is not None and not 0 <= self.factor < math.inf:
            mistakes.append(f"factor: expected a finite number >= 0, got {self.factor}")
        if self.addend is not None and not math.isfinite(self.addend):
            mistakes.append(f"addend: expected a finite number, got {self.addend}")
        if self.new_days is not None and not 0 < self.new_days < math.inf:
            mistakes.append(f"new_days: expected a finite number > 0, got {self.new_days}")
        if self.attribute is not None and not self.attribute.partition("=")[1]:
            mistakes.append(f"attribute: expected name=value, for example color=red, got {self.attribute!r}")
        if mistakes:
            raise ValueError("; ".join(mistakes))

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Boost:
        """Read one entry of the setting, whose file of items has been read.

        Raises:
            ValueError: An unknown name, a value of the wrong kind, or one that a boost cannot have.
        """
        readers = {"items": _ids, "new_days": _number, "factor": _number, "addend": _number}
        known = [field.name for field in dataclasses.fields(cls)]
        mistakes, values = [], dict[str, Any]()
        for name, value in document.items():
            if name not in known:
                mistakes.append(f"unknown {name!r}, expected some of {', '.join([*known, ITEMS_FILE])}")
                continue
            try:
                values[name] = readers.get(name, _text)(value)
            except ValueError as error:
                mistakes.append(f"{name}: {error}")
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return cls(**values)


def boosts_of(documents: Sequence[Mapping[str, Any]]) -> tuple[Boost, ...]:
    """Return the boosts of a setting; one whose file has not been read yet has no items.

    Raises:
        ValueError: All mistakes of all entries.

    Example:
        >>> boosts_of([{"brand": "acme", "factor": 1.5}])[0].factor
        1.5
    """
    boosts, mistakes = [], []
    for place, document in enumerate(documents):
        try:
            boosts.append(Boost.from_document(_without_file(document)))
        except ValueError as error:
            mistakes += [f"boosts[{place}]: {mistake}" for mistake in str(error).split("; ")]
    factors = [boost.factor for boost in boosts if boost.factor is not None]
    for what, together in (
        ("factors multiply", math.prod(max(factor, 1.0) for factor in factors)),
        ("addends sum up", sum(abs(boost.addend) for boost in boosts if boost.addend is not None)),
    ):
        if together > MOST_TOGETHER:
            mistakes.append(f"boosts: expected that {what} to {MOST_TOGETHER:g} at most, got {together:g}")
    if mistakes:
        raise ValueError("; ".join(mistakes))
    return tuple(boosts)


def with_files_read(documents: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Return the setting with the ids themselves in place of the files that list them, one per line.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no text.
    """
    return tuple(_with_file_read(dict(document)) for document in documents)


def _with_file_read(document: dict[str, Any]) -> dict[str, Any]:
    name = document.pop(ITEMS_FILE, None)
    if name is None:
        return document
    path = Path(name)
    if not path.is_file():
        raise FileNotFoundError(f"recommend.boosts: {ITEMS_FILE} {path}: expected a file with an item id per line")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"recommend.boosts: {ITEMS_FILE} {path}: expected UTF-8 text: {error}") from error
    return document | {"items": [line.strip() for line in lines if line.strip()]}


def _without_file(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry with no items in place of a file that is not read yet."""
    if ITEMS_FILE not in document:
        return dict(document)
    if "items" in document:
        raise ValueError(f"expected either items or {ITEMS_FILE}, got both")
    if not isinstance(document[ITEMS_FILE], str):
        raise ValueError(f"{ITEMS_FILE}: expected a path, got {document[ITEMS_FILE]!r}")
    return {name: value for name, value in document.items() if name != ITEMS_FILE} | {"items": []}


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"expected a text, got {value!r}")
    return str(value)


def _ids(value: Any) -> frozenset[str]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError(f"expected a list of item ids, got {value!r} (a file of ids is {ITEMS_FILE})")
    return frozenset(map(_text, value))


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected a number, got {value!r}")
    return float(value)
