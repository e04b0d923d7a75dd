"""What int8 tables change about the outputs of a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.embedding.int8 import QuantizationReport, quantize


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputDifference:
    """How far the outputs of a model with int8 tables are from those it had."""

    largest_error: float
    lists: int
    top_k: int
    equal_lists: float
    """Share of the lists whose best `top_k` are the same in the same order."""

    def lines(self) -> list[str]:
        """Return the difference for printing."""
        return [
            f"int8 outputs: largest difference {self.largest_error:.2g}; best {self.top_k} unchanged in "
            f"{self.equal_lists:.1%} of {self.lists:,} lists"
        ]


def quantize_and_compare(
    module: nn.Module, score: Callable[[Any], Tensor], batches: Sequence[Any], *, top_k: int
) -> tuple[QuantizationReport, OutputDifference]:
    """Quantise `module` and say what that does to its outputs.

    Args:
        module: As for `quantize`; give it in evaluation mode.
        score: The outputs of `module` for a batch, float `[..., N]`: the last axis is a list of scores to rank.
        batches: What to compare on, at least one.
        top_k: The best how many of a list are compared, 1 <= top_k.

    Raises:
        ValueError: As `quantize`, or there is no list.
    """
    with torch.no_grad():
        before = [score(batch) for batch in batches]
        report = quantize(module)
        after = [score(batch) for batch in batches]
    return report, compare_outputs(before, after, top_k=top_k)


def compare_outputs(before: Sequence[Tensor], after: Sequence[Tensor], *, top_k: int) -> OutputDifference:
    """Compare scores `[..., N]`, list by list; equal scores rank in the order of their places.

    Raises:
        ValueError: There is no list.

    Example:
        >>> compare_outputs([torch.tensor([[3.0, 2.0, 1.0]])], [torch.tensor([[3.0, 0.5, 1.0]])], top_k=2).lines()
        ['int8 outputs: largest difference 1.5; best 2 unchanged in 0.0% of 1 lists']
    """
    pairs = [(old, new) for old, new in zip(before, after, strict=True) if old.numel()]
    if not pairs:
        raise ValueError("outputs to compare: expected at least one list of scores, got none; give batches with rows")
    equal = torch.cat([(_best(old, top_k) == _best(new, top_k)).all(1) for old, new in pairs])
    return OutputDifference(
        largest_error=max(float((old - new).abs().max()) for old, new in pairs),
        lists=len(equal),
        top_k=top_k,
        equal_lists=float(equal.float().mean()),
    )


def _best(scores: Tensor, top_k: int) -> Tensor:
    flat = scores.reshape(-1, scores.shape[-1])
    return flat.argsort(dim=1, descending=True, stable=True)[:, :top_k]
