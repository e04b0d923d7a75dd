"""Configuration of the ranker."""

from __future__ import annotations

import dataclasses

HEADS: tuple[str, ...] = ("click", "cart", "purchase")
"""What the ranker predicts for an item of a page: a click or more, a cart or more, a purchase."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankerConfig:
    """Shape of the ranker, of its inputs and of its batches."""

    rows: int = 100_000
    """Rows of the one table that all features with many values share."""
    dimensions: int = 8
    """Width of a row of it, a multiple of 4; a feature with k probes is k times as wide."""
    probes: int = 2
    """Rows looked up per value and put side by side; two values differ unless all their rows are the same."""
    probes_of: dict[str, int] = dataclasses.field(default_factory=dict)
    """Probes of single features by name, where they are not `probes`."""
    exact_limit: int = 64
    """Features with at most so many values in training (hour, weekday, device, ...) get a row for each of them, in a
    small table apart; values never met in training share a row of zeros."""
    features: tuple[str, ...] = ()
    """Names of the columns to use; empty: all that items, requests and feature tables have."""
    cross_layers: int = 1
    """Layers of feature crosses (DCN-V2, full-rank); what a candidate costs grows with layers x (total width)^2."""
    deep_widths: tuple[int, ...] = (128, 64)
    """Widths of the hidden layers beside the crosses."""
    max_history: int = 50
    """Newest history entries among which those of the candidate's category are searched."""
    recent_entries: int = 10
    """Newest history entries that are attended to where none is of the candidate's category."""
    attention_width: int = 32
    """Width of keys, queries and values over history; a multiple of `attention_heads`."""
    attention_heads: int = 2
    """Heads of the attention over history."""
    loss_weights: tuple[float, float, float] = (1.0, 0.5, 0.5)
    """Weights of the losses of click, cart and purchase."""
    values: tuple[float, float, float] = (1.0, 2.0, 4.0)
    """What a click, a cart and a purchase are worth: the score is the sum of value x calibrated probability. A purchase
    is a cart and a click too, and a cart a click: the values of the earlier steps come on top."""
    negatives: int = 4
    """Items drawn for each positive of a page where the log holds no impressions."""
    popular_share: float = 0.5
    """Share of them drawn by popularity, the others uniformly; below 1."""
    batch_size: int = 128
    """Pages of a training batch per process."""

    def __post_init__(self) -> None:
        mistakes = [
            f"{name}: expected at least {least}, got {getattr(self, name)}"
            for name, least in _AT_LEAST.items()
            if getattr(self, name) < least
        ]
        mistakes += self._shapes()
        mistakes += self._weights()
        if not 0 <= self.popular_share < 1:
            mistakes.append(f"popular_share: expected 0 <= share < 1, got {self.popular_share}")
        if mistakes:
            raise ValueError("ranker configuration:\n  " + "\n  ".join(mistakes))

    def _shapes(self) -> list[str]:
        mistakes = [
            f"probes_of: {name}: expected at least 1, got {probes}"
            for name, probes in self.probes_of.items()
            if probes < 1
        ]
        if self.dimensions % 4:
            mistakes.append(f"dimensions: expected a multiple of 4, got {self.dimensions}")
        if self.attention_heads >= 1 and self.attention_width % self.attention_heads:
            mistakes.append(
                f"attention_width: expected a multiple of attention_heads = {self.attention_heads}, "
                f"got {self.attention_width}"
            )
        if not self.deep_widths or min(self.deep_widths) < 1:
            mistakes.append(f"deep_widths: expected one positive width per layer, got {self.deep_widths}")
        if self.features and set(self.probes_of) - set(self.features):
            others = sorted(set(self.probes_of) - set(self.features))
            mistakes.append(f"probes_of: expected names that `features` lists, got {', '.join(others)}")
        return mistakes

    def _weights(self) -> list[str]:
        return [
            f"{name}: expected one number >= 0 for each of {', '.join(HEADS)}, not all 0, got {getattr(self, name)}"
            for name in ("loss_weights", "values")
            if len(getattr(self, name)) != len(HEADS) or min(getattr(self, name)) < 0 or not any(getattr(self, name))
        ]


_AT_LEAST = {
    "rows": 1,
    "dimensions": 4,
    "probes": 1,
    "exact_limit": 0,
    "cross_layers": 1,
    "max_history": 1,
    "recent_entries": 1,
    "attention_width": 1,
    "attention_heads": 1,
    "negatives": 1,
    "batch_size": 1,
}
