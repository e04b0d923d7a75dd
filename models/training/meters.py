"""What a run tells while it goes: means of a step's values, and the progress line."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

EXAMPLES = "examples"
STEPS = "steps"


class Meters:
    """Sums of named scalars over steps, kept as tensors so that no step waits for a number."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, values: Mapping[str, Tensor | float], examples: int) -> None:
        """Add one step's values and its number of examples."""
        for name, value in {STEPS: 1.0, EXAMPLES: float(examples), **values}.items():
            amount = torch.as_tensor(value, dtype=torch.float64, device=self.device)
            self.sums[name] = self.sums[name] + amount if name in self.sums else amount

    def means(self) -> dict[str, float]:
        """Return each value's mean over steps and processes, and the sum of examples; then start anew."""
        names = list(self.sums)
        totals = torch.stack([self.sums[name].reshape(()) for name in names])
        if dist.is_initialized():
            dist.all_reduce(totals)
        found = dict(zip(names, totals.tolist(), strict=True))
        self.sums = {}
        steps = found.pop(STEPS)
        return {name: value if name == EXAMPLES else value / steps for name, value in found.items()}

    def reset(self, names: list[str]) -> None:
        """Start anew with zeros for these names, for a checkpoint to read into."""
        self.sums = {name: torch.zeros((), dtype=torch.float64, device=self.device) for name in names}


def peak_rss_mb() -> float:
    """Return the largest resident memory of this process so far, in megabytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def clock(seconds: float) -> str:
    """Write seconds as minutes, or hours and minutes.

    Example:
        >>> clock(75), clock(3700)
        ('1:15', '1:01:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
