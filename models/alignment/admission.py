"""Which requests the policy-gradient term is used for: AdaGRPO (arXiv 2606.08480), in the form its abstract describes.

A production ranker learns from what was exposed, so its rewards are not equally good everywhere. A request is admitted
when it still has something to teach and the ranker can be trusted on it; the likelihood of positives is used always.

Legend: `B` requests, `X` semantic IDs of each.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from models.alignment.config import AlignConfig


@dataclasses.dataclass(frozen=True)
class Judged:
    """Semantic IDs of each request as the policy and the ranker see them.

    Attributes:
        logprob_BX: The policy's log-probability, summed over levels.
        reward_BX: Gated reward, before positives are lifted.
        present_BX: Where there is one.
    """

    logprob_BX: Tensor
    reward_BX: Tensor
    present_BX: Tensor


def admit(negatives: Judged, positives: Judged, config: AlignConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """Return which requests are admitted.

    Hard: the most probable positive ranks below place `admission_rank` among the negatives.
    Judged rightly: the best reward of a positive exceeds the `admission_quantile` of the negatives' rewards.

    Args:
        negatives: The rollouts; those that are SID hits are not present.
        positives: The page's positives.
        config: Rank and quantile.

    Returns:
        Bool `[B]`, False without a positive or without a negative, and `hard_share`, `judged_share`,
        `admitted_share` of requests.
    """
    best_logprob_B1 = positives.logprob_BX.masked_fill(~positives.present_BX, -torch.inf).amax(dim=1, keepdim=True)
    best_reward_B = positives.reward_BX.masked_fill(~positives.present_BX, -torch.inf).amax(dim=1)
    rank_B = 1 + (negatives.present_BX & (negatives.logprob_BX > best_logprob_B1)).sum(dim=1)
    bar_B = negatives.reward_BX.masked_fill(~negatives.present_BX, torch.nan).nanquantile(
        config.admission_quantile, dim=1
    )
    comparable_B = positives.present_BX.any(dim=1) & negatives.present_BX.any(dim=1)
    hard_B = comparable_B & (rank_B > config.admission_rank)
    judged_B = comparable_B & (best_reward_B > bar_B)
    admitted_B = hard_B & judged_B
    return admitted_B, {
        "hard_share": hard_B.float().mean(),
        "judged_share": judged_B.float().mean(),
        "admitted_share": admitted_B.float().mean(),
    }
