"""Configuration of the learned fusion's training."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlendConfig:
    """How the weights of `recommend.fusion=learned` are fitted."""

    pages: int = 8_000
    """Validation pages drawn for it, at most."""
    regularization: float = 1e-4
    """Weight of the squared weights, per source, beside the mean loss per page."""

    def __post_init__(self) -> None:
        mistakes = []
        if self.pages < 2:
            mistakes.append(f"pages: expected at least 2, one half to fit on and one to measure, got {self.pages}")
        if not self.regularization >= 0:
            mistakes.append(f"regularization: expected 0 or more, got {self.regularization}")
        if mistakes:
            raise ValueError("; ".join(mistakes))
