"""What an object adds up, as bytes that hold numbers and names only: nothing in them can run.

An object's state is every array, number, text, list of texts and mapping of numbers among its attributes, and those of
the objects among its attributes; dataclasses (options) are none of it.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np

Whole = TypeVar("Whole")
_OTHERS = "others"


def packed(whole: object) -> bytes:
    """Return the state of an object.

    Example:
        >>> from collections import Counter
        >>> class Seen:
        ...     def __init__(self):
        ...         self.sums, self.counts = np.zeros(2), Counter()
        >>> one, other = Seen(), Seen()
        >>> one.sums += 3
        >>> one.counts["pages"] += 1
        >>> unpacked(packed(one), other).sums, other.counts
        (array([3., 3.]), Counter({'pages': 1}))
    """
    arrays: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for holder, name, place in _leaves(whole, ""):
        value = getattr(holder, name)
        if isinstance(value, np.ndarray):
            arrays[place] = value
        else:
            others[place] = value
    content = io.BytesIO()
    arrays[_OTHERS] = np.frombuffer(json.dumps(others).encode(), dtype=np.uint8)
    np.savez(content, **arrays)
    return content.getvalue()


def unpacked(content: bytes, whole: Whole) -> Whole:
    """Give an object, made with the same options, the state that another one had; return it."""
    with np.load(io.BytesIO(content)) as arrays:
        others = json.loads(arrays[_OTHERS].tobytes())
        for holder, name, place in _leaves(whole, ""):
            present = getattr(holder, name)
            value = arrays[place] if isinstance(present, np.ndarray) else others[place]
            setattr(holder, name, type(present)(value) if isinstance(present, dict) else value)
    return whole


def _leaves(whole: object, prefix: str) -> Iterator[tuple[Any, str, str]]:
    """Yield (object, attribute, dotted name) of all state."""
    for name, value in vars(whole).items():
        place = f"{prefix}{name}"
        inside = value if isinstance(value, list) else [value]
        if inside and all(hasattr(one, "__dict__") and not isinstance(one, dict) for one in inside):
            for number, one in enumerate(inside):
                if not dataclasses.is_dataclass(one):
                    yield from _leaves(one, f"{place}.{number}.")
        else:
            yield whole, name, place
