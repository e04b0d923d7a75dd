"""How likely an item is in a training batch, estimated while batches go by, in constant memory.

For each item that a batch at step t holds, and each hash function h, with the step A of its bucket's last visit and
the mean gap D between visits: `D = (1 - a) D + a (t - A); A = t`. An item's probability to be in a batch is
`1 / max over h of D`: items that collide shorten a bucket's gaps, so the largest is the least wrong.

Source: Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", RecSys 2019,
algorithm 2; means start at 0 and are divided by the weight they have gathered, so that they have no bias at any time.
Legend: `M` hash functions, `H` buckets, `N` items, `C` items asked for.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from kernels.hashing import hash_integers


class StreamingFrequency(nn.Module):
    """The estimate, as buffers: a checkpoint holds them, so a resumed run goes on exactly.

    Args:
        items: Number of items `N`.
        hashes: Number of hash functions `M`.
        buckets: Buckets per hash function `H`.
        rate: Weight `a` of the newest gap.

    Example:
        >>> frequency = StreamingFrequency(items=2, hashes=1, buckets=1_000, rate=0.5)
        >>> for step in range(4):  # item 0 in every batch, item 1 in every second
        ...     frequency.update(torch.tensor([0, 1] if step % 2 else [0]))
        >>> frequency(torch.tensor([0, 1])).tolist()
        [1.0, 0.5]
    """

    step: Tensor
    last_MH: Tensor
    gap_MH: Tensor
    weight_MH: Tensor
    bucket_MN: Tensor

    def __init__(self, *, items: int, hashes: int, buckets: int, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("last_MH", torch.zeros(hashes, buckets, dtype=torch.int64))
        self.register_buffer("gap_MH", torch.zeros(hashes, buckets, dtype=torch.float64))
        self.register_buffer("weight_MH", torch.zeros(hashes, buckets, dtype=torch.float64))
        numbers = np.arange(items)
        bucket_MN = np.stack([hash_integers(numbers, salt=salt) % np.uint64(buckets) for salt in range(hashes)])
        self.register_buffer("bucket_MN", torch.from_numpy(bucket_MN.astype(np.int64)), persistent=False)

    @torch.no_grad()
    def update(self, items: Tensor) -> None:
        """Take in one batch, a step.

        Args:
            items: The distinct items of the batch.
        """
        self.step += 1
        for last_H, gap_H, weight_H, bucket_N in zip(
            self.last_MH, self.gap_MH, self.weight_MH, self.bucket_MN, strict=True
        ):
            visited, visits = torch.unique(bucket_N[items], return_counts=True)
            # Of several visits in one step all but the first have a gap of zero.
            kept = (1 - self.rate) ** (visits - 1).double()
            gaps = (self.step - last_H[visited]).double()
            gap_H[visited] = kept * ((1 - self.rate) * gap_H[visited] + self.rate * gaps)
            weight_H[visited] = 1 - kept * (1 - self.rate) * (1 - weight_H[visited])
            last_H[visited] = self.step

    @torch.no_grad()
    def forward(self, items: Tensor) -> Tensor:
        """Return the probability of each of `C` items to be in a batch, float32 `[C]`; 0 for those never met."""
        bucket_MC = self.bucket_MN[:, items]
        gap_MC, weight_MC = self.gap_MH.gather(1, bucket_MC), self.weight_MH.gather(1, bucket_MC)
        mean_MC = torch.where(weight_MC > 0, gap_MC / weight_MC, torch.inf)
        return (1 / mean_MC.amax(0)).clamp(0, 1).float()
