"""What parts of the work find, and what they come to together: a few kilobytes, whatever the number of pages.

Legend: `B` bins.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterable
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pipelines.feature_check.drift import BINS

EXAMPLES = 3
"""Pages named per feature."""
SPAN_BINS, _PER_DOUBLING = 320, 8

Counts = npt.NDArray[np.int64]


def no_spans() -> Counts:
    """Return an empty histogram of spans of time."""
    return np.zeros(SPAN_BINS, np.int64)


def spans(milliseconds: npt.NDArray[np.integer]) -> Counts:
    """Return a histogram of spans of time, `[B]`; each bin is a ninth wider than the one before."""
    steps = np.log2(np.maximum(milliseconds, 1).astype(np.float64)) * _PER_DOUBLING
    return np.bincount(np.minimum(steps.astype(np.int64), SPAN_BINS - 1), minlength=SPAN_BINS)


def span_quantile(counts_B: Counts, share: float) -> float | None:
    """Return the seconds that `share` of the spans do not exceed, at most a ninth too many; None without spans.

    Example:
        >>> span_quantile(spans(np.array([1000, 1000, 4000])), 0.5)
        1.024
    """
    total = int(counts_B.sum())
    if not total:
        return None
    place = int(np.searchsorted(np.cumsum(counts_B), math.ceil(share * total)))
    return float(2 ** ((place + 1) / _PER_DOUBLING) / 1000)


@dataclasses.dataclass(kw_only=True)
class Tally:
    """What was found of one feature.

    Attributes:
        rows: Values that were served.
        compared: Those among them that must equal what batch finds.
        mismatched: Those among these that do not.
        explained: Values that differ where the service lacked events, or had others.
        defaults: Served values that are what an unknown user or item has.
        batch_defaults: The same of what batch finds.
        largest: Largest difference of a mismatched value (`comparing.differences`); where only one is known, none.
        served: Histogram of the served values, `[B]`.
        trained: Histogram of the training split's values, `[B]`.
        examples: Request ids of pages with a mismatched value.
    """

    rows: int = 0
    compared: int = 0
    mismatched: int = 0
    explained: int = 0
    defaults: int = 0
    batch_defaults: int = 0
    largest: float = 0.0
    served: Counts = dataclasses.field(default_factory=lambda: np.zeros(BINS, np.int64))
    trained: Counts = dataclasses.field(default_factory=lambda: np.zeros(BINS, np.int64))
    examples: tuple[str, ...] = ()

    def add(self, other: Tally) -> None:
        """Count the other, too."""
        for name in ("rows", "compared", "mismatched", "explained", "defaults", "batch_defaults"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.largest = max(self.largest, other.largest)
        self.served, self.trained = self.served + other.served, self.trained + other.trained
        self.examples = tuple(sorted({*self.examples, *other.examples})[:EXAMPLES])


@dataclasses.dataclass(kw_only=True)
class Findings:
    """What was found in a part of the pages.

    Attributes:
        counts: Pages and items by what became of them.
        features: By name.
        spans: Histograms of spans of time, by what they are.
    """

    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    features: dict[str, Tally] = dataclasses.field(default_factory=dict)
    spans: dict[str, Counts] = dataclasses.field(default_factory=dict)

    @classmethod
    def together(cls, parts: Iterable[Findings]) -> Self:
        """Return what parts come to."""
        whole = cls()
        for part in parts:
            whole.counts.update(part.counts)
            for name, tally in part.features.items():
                whole.features.setdefault(name, Tally()).add(tally)
            for name, histogram in part.spans.items():
                whole.spans[name] = whole.spans.get(name, no_spans()) + histogram
        return whole

    def to_json(self) -> bytes:
        """Serialise."""
        document = {
            "counts": dict(self.counts),
            "features": {name: dataclasses.asdict(tally) for name, tally in self.features.items()},
            "spans": self.spans,
        }
        return json.dumps(document, default=lambda array: array.tolist(), sort_keys=True).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Read what `to_json` wrote."""
        document: dict[str, Any] = json.loads(text)
        return cls(
            counts=Counter(document["counts"]),
            features={name: _tally(fields) for name, fields in document["features"].items()},
            spans={name: np.array(histogram, np.int64) for name, histogram in document["spans"].items()},
        )


def _tally(fields: dict[str, Any]) -> Tally:
    arrays = {name: np.array(fields[name], np.int64) for name in ("served", "trained")}
    return Tally(**{**fields, **arrays, "examples": tuple(fields["examples"])})
