"""Options of the evaluation."""

from __future__ import annotations

import dataclasses

from features.schemas import SPLITS, TEST


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Which cases are measured, and how."""

    split: str = TEST
    """Pages of this split are predicted: `validation` to choose something, `test` once, at the end."""
    ks: tuple[int, ...] = (1, 5, 10, 50)
    """Ranks at which HR, recall, NDCG and MRR are cut; the largest is the number of candidates asked for."""
    exclude_seen: bool = False
    """Leave the user's earlier items out of answers and targets; published leave-one-out tables do not."""
    max_history: int = 50
    """Newest history items given to the retrievers; a retriever may use fewer."""
    max_cases: int | None = 100_000
    """Measure a random sample of so many pages. None: all."""
    batch_size: int = 1024
    """Requests given to a retriever at a time; bounds memory."""
    resamples: int = 1000
    """Bootstrap resamples of users behind each 95 % interval."""
    baselines: tuple[str, ...] = ("popular", "transitions")
    """Retrievers against which the others are compared pairwise."""
    head_share: float = 0.2
    """The most popular share of the items with a positive training event is the head, the rest of them the tail."""
    hallucination_cases: int = 512
    """Random cases on which the hallucination rate is measured."""
    sample_pages: int = 5
    """Random cases printed with titles."""

    def __post_init__(self) -> None:
        mistakes = [
            f"{name}: expected at least 1, got {getattr(self, name)}"
            for name in ("max_history", "batch_size", "resamples", "hallucination_cases")
            if getattr(self, name) < 1
        ]
        if self.split not in SPLITS:
            mistakes.append(f"split: expected one of {', '.join(SPLITS)}, got {self.split!r}")
        if not self.ks or min(self.ks) < 1 or list(self.ks) != sorted(set(self.ks)):
            mistakes.append(f"ks: expected rising numbers from 1, got {self.ks}")
        if self.max_cases is not None and self.max_cases < 1:
            mistakes.append(f"max_cases: expected at least 1 or null, got {self.max_cases}")
        if not 0 < self.head_share < 1:
            mistakes.append(f"head_share: expected more than 0 and less than 1, got {self.head_share}")
        if self.sample_pages < 0:
            mistakes.append(f"sample_pages: expected at least 0, got {self.sample_pages}")
        if mistakes:
            raise ValueError("; ".join(mistakes))

    @property
    def main_k(self) -> int:
        """The `k` of plots and short tables: 10 where it is measured, else the largest."""
        return 10 if 10 in self.ks else self.ks[-1]
