"""Configuration of the studies."""

from __future__ import annotations

import dataclasses

from features.schemas import SPLITS, TEST
from pipelines.studies.variants import VARIANTS


@dataclasses.dataclass(frozen=True, kw_only=True)
class SslStudyConfig:
    """Which runs are compared, and on what."""

    fractions: tuple[float, ...] = (1.0, 0.1)
    """Shares of the training examples to train on."""
    split: str = TEST
    """Split that is measured. Settle everything on `validation` first."""

    def __post_init__(self) -> None:
        mistakes = []
        if not self.fractions or not all(0 < fraction <= 1 for fraction in self.fractions):
            mistakes.append(f"fractions: expected numbers above 0 and at most 1, got {self.fractions}")
        if self.split not in SPLITS:
            mistakes.append(f"split: expected one of {', '.join(SPLITS)}, got {self.split!r}")
        if mistakes:
            raise ValueError("; ".join(mistakes))


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenRecStudyConfig:
    """Which variants of GenRec are compared, and on what."""

    variants: tuple[str, ...] = VARIANTS
    """Some of `pipelines.studies.variants.VARIANTS`; the others are compared with the first."""
    split: str = TEST
    """Split that is measured. Settle everything on `validation` first."""
    max_cases: int = 5_000
    """Pages measured, drawn at random where the split has more."""
    sample_seed: int = 0
    """Draws them, and the resamples of intervals."""

    def __post_init__(self) -> None:
        mistakes = []
        unknown = sorted(set(self.variants) - set(VARIANTS))
        if not self.variants or unknown or len(set(self.variants)) != len(self.variants):
            mistakes.append(f"variants: expected different ones of {', '.join(VARIANTS)}, got {self.variants}")
        if self.split not in SPLITS:
            mistakes.append(f"split: expected one of {', '.join(SPLITS)}, got {self.split!r}")
        if self.max_cases < 1:
            mistakes.append(f"max_cases: expected at least 1, got {self.max_cases}")
        if mistakes:
            raise ValueError("; ".join(mistakes))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurvesConfig:
    """What the GenRec that the settings make is measured against."""

    beams: tuple[int, ...] = (10, 20, 50, 100, 200, 400)
    """Beam widths, at the model's own history length."""
    histories: tuple[int, ...] = (1, 2, 5, 10, 20, 50)
    """Newest history items kept in the prompt, at `decode.beams`; those longer than the model's are left out."""
    widths: tuple[int, ...] = ()
    """Widths of further models to train, feed-forward in proportion: the curve over parameters."""
    split: str = TEST
    """Split that is measured."""
    max_cases: int = 4_000
    """Pages measured, drawn at random where the split has more."""
    sample_seed: int = 0
    """Draws them."""

    def __post_init__(self) -> None:
        mistakes = [
            f"{name}: expected numbers of at least 1, got {getattr(self, name)}"
            for name in ("beams", "histories", "widths")
            if any(value < 1 for value in getattr(self, name))
        ]
        if self.split not in SPLITS:
            mistakes.append(f"split: expected one of {', '.join(SPLITS)}, got {self.split!r}")
        if self.max_cases < 1:
            mistakes.append(f"max_cases: expected at least 1, got {self.max_cases}")
        if mistakes:
            raise ValueError("; ".join(mistakes))
