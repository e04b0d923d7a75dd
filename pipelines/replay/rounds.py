"""Logged pages as arrays, with what each policy thinks of them: all that an estimator may look at.

Legend: `R` logged pages, `P` slots of the longest of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Part = TypeVar("Part", bound="Rounds | Target | Chances")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chances:
    """How probably one policy does what was logged; 1 in slots without an item.

    Attributes:
        conditional_RP: P(item of the slot | page, items before it). The product over slots is P(page).
        marginal_RP: P(this slot holds the logged item | page's context), whatever stands before it.
        cluster_RP: P(this slot holds some item of the logged item's cluster | page's context).
    """

    conditional_RP: Floats
    marginal_RP: Floats
    cluster_RP: Floats


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """A policy that is to be judged, on the same logged pages.

    Attributes:
        chances: Of what was logged.
        expected_RP: Mean prediction of the reward model over what this policy would put into the slot.
        expected_next_RP: The same, given the logged items of the slots before.
        drawn_RP: Whether one draw of this policy, given the logged items before, puts the logged item there.
        outside_R: Share of the policy's probability on items which the logging policy could not have shown there, mean
            over slots.
        pseudo_inverse_R: Weight of the page by the pseudo-inverse estimator; None where it was not asked for.
    """

    chances: Chances
    expected_RP: Floats
    expected_next_RP: Floats
    drawn_RP: Bools
    outside_R: Floats
    pseudo_inverse_R: Floats | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rounds:
    """Logged pages, their rewards, and three policies' chances: who logged them, champion A, challenger B.

    Attributes:
        users_R: Hash of each page's user: pages of one user are not independent of each other.
        times_R: Milliseconds since 1970 UTC.
        there_RP: Which slots hold an item.
        rewards_RP: Reward of each shown item, 0 where there is none.
        logged: The logging policy.
        predicted_RP: Prediction of the reward model for what was shown, by a model that knows nothing of this user; 0
            without a reward model, and where there is no item.
        champion, challenger: The policies to compare.
        slices: Name of a slice, `group=value` -> which shown items belong to it (`pipelines.replay.slices`).
        propensities_estimated: Whether the logging policy's chances are estimates, since the log has none.
    """

    users_R: Hashes
    times_R: Ints
    there_RP: Bools
    rewards_RP: Floats
    logged: Chances
    predicted_RP: Floats
    champion: Target
    challenger: Target
    slices: Mapping[str, Bools] = dataclasses.field(default_factory=dict)
    propensities_estimated: bool = False

    def __post_init__(self) -> None:
        shape = self.there_RP.shape
        if len(shape) != 2:
            raise ValueError(f"there_RP: expected shape [pages, slots], got {shape}")
        mistakes = [
            f"{name}: expected shape {shape[:1] if name.endswith('_R') else shape}, got {array.shape}"
            for name, array in _arrays(self)
            if array.shape != (shape[:1] if name.endswith("_R") else shape)
        ]
        if mistakes:
            raise ValueError("; ".join(mistakes))

    def __len__(self) -> int:
        return len(self.users_R)

    def take(self, rows: npt.NDArray[np.integer] | Bools | slice) -> Rounds:
        """Return the pages of these rows, in their order; those of a slice share memory."""
        return _mapped(lambda name, arrays: arrays[0][rows], self)


def concatenated(parts: Sequence[Rounds]) -> Rounds:
    """Return the pages of all parts, at least one; shorter pages are padded with empty slots."""
    slots = max(part.there_RP.shape[1] for part in parts)

    def join(name: str, arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        empty = 1 if name in _CHANCES else 0
        return np.concatenate([_widened(array, slots, empty) for array in arrays])

    return _mapped(join, *parts)


_CHANCES = {field.name for field in dataclasses.fields(Chances)}


def _arrays(part: Rounds | Target | Chances) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if isinstance(value, (Chances, Target)):
            yield from ((f"{field.name}.{name}", array) for name, array in _arrays(value))
        elif isinstance(value, Mapping):
            yield from ((f"slice {name}", array) for name, array in value.items())
        elif isinstance(value, np.ndarray):
            yield field.name, value


def _widened(array: npt.NDArray[Any], slots: int, empty: float) -> npt.NDArray[Any]:
    if array.ndim == 1:
        return array
    return np.pad(array, ((0, 0), (0, slots - array.shape[1])), constant_values=empty)


def _mapped(function: Callable[[str, Sequence[npt.NDArray[Any]]], npt.NDArray[Any]], *parts: Part) -> Part:
    """Return a part whose every array is the function of its name and the arrays of that name in these parts."""
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(parts[0]):
        values = [getattr(part, field.name) for part in parts]
        if dataclasses.is_dataclass(values[0]):
            changed[field.name] = _mapped(function, *values)
        elif isinstance(values[0], np.ndarray):
            changed[field.name] = function(field.name, values)
        elif isinstance(values[0], Mapping):
            changed[field.name] = {name: function(name, [value[name] for value in values]) for name in values[0]}
    return dataclasses.replace(parts[0], **changed)
