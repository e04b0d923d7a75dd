"""Options of the click model and its training."""

from __future__ import annotations

import dataclasses

COLLISIONLESS, PER_FEATURE, MULTIPLEXED = "collisionless", "per_feature", "multiplexed"
MULTI_PROBE, QUOTIENT_REMAINDER = "multi_probe", "quotient_remainder"
METHODS = (COLLISIONLESS, PER_FEATURE, MULTIPLEXED, MULTI_PROBE, QUOTIENT_REMAINDER)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClickConfig:
    """One network, trained alike for every embedding method."""

    width: int = 30
    """Floats of a field's embedding."""
    cross_layers: int = 1
    """Layers of the cross network."""
    hidden: tuple[int, ...] = (192,)
    """Widths of the dense layers after it."""
    learning_rate: float = 3e-4
    """Of Adam. Validation improves for a few epochs only: a small rate lets the best one be met."""
    batch_size: int = 1024
    """Examples per step."""
    max_epochs: int = 30
    """Passes over the training part, unless validation stops improving before."""
    patience: int = 2
    """Epochs without a better validation log loss after which training ends; the best epoch's weights are kept."""

    def __post_init__(self) -> None:
        if mistakes := self.mistakes():
            raise ValueError("; ".join(mistakes))

    def mistakes(self) -> list[str]:
        """Return what is wrong, all of it."""
        names = ("width", "cross_layers", "batch_size", "max_epochs", "patience")
        mistakes = [
            f"{name}: expected at least 1, got {getattr(self, name)}" for name in names if getattr(self, name) < 1
        ]
        if any(width < 1 for width in self.hidden):
            mistakes.append(f"hidden: expected widths of at least 1, got {self.hidden}")
        if not self.learning_rate > 0:
            mistakes.append(f"learning_rate: expected more than 0, got {self.learning_rate}")
        return mistakes
