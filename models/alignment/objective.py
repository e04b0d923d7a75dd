"""The loss of GRPO-SR (arXiv 2604.14878, Eq. 8): on-policy policy gradient plus likelihood of the positives.

Legend: `B` requests, `G` candidates of a group, `L` levels, `P` positives of one request.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.alignment.config import AlignConfig

MIN_SPREAD = 1e-6
"""Groups whose rewards, in [0, 1], have a standard deviation of at most this are skipped: dividing by it would turn
float32 rounding into advantages as large as those of real differences, which may be small where clicks are rare."""


def group_advantages(reward_BG: Tensor, valid_BG: Tensor) -> tuple[Tensor, Tensor]:
    """Return `(r - mean) / std` of each candidate within its group, and which groups have any spread.

    The standard deviation is the population's (divided by the number of candidates, not by one less): one hit among
    `G` otherwise equal candidates has the advantage `sqrt(G - 1)`.

    Args:
        reward_BG: Calibrated rewards.
        valid_BG: Where there is a candidate; the others do not count.

    Returns:
        Advantages `[B, G]`, 0 where there is no candidate and in groups without spread, and bool `[B]`.

    Example:
        >>> rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.5, 0.5, 0.5]])
        >>> group_advantages(rewards, torch.ones(2, 5, dtype=torch.bool))
        (tensor([[ 2.0000, -0.5000, -0.5000, -0.5000, -0.5000],
                [ 0.0000,  0.0000,  0.0000,  0.0000,  0.0000]]), tensor([ True, False]))
    """
    count_B1 = valid_BG.sum(dim=1, keepdim=True).clamp_min(1)
    mean_B1 = reward_BG.where(valid_BG, 0.0).sum(dim=1, keepdim=True) / count_B1
    centred_BG = (reward_BG - mean_B1).where(valid_BG, 0.0)
    spread_B1 = (centred_BG.square().sum(dim=1, keepdim=True) / count_B1).sqrt()
    spreads_B1 = spread_B1 > MIN_SPREAD
    return torch.where(spreads_B1, centred_BG / spread_B1.clamp_min(MIN_SPREAD), 0.0), spreads_B1[:, 0]


def positives_nll(logprobs_BPL: Tensor, present_BP: Tensor) -> Tensor:
    """Return each request's negative log-likelihood: summed over the codes of a positive, averaged over positives.

    Args:
        logprobs_BPL: From `response_logprobs`.
        present_BP: Where there is a positive.

    Returns:
        `[B]`, nats per positive; 0 where a request has none.
    """
    total_B = -logprobs_BPL.sum(dim=-1).where(present_BP, 0.0).sum(dim=1)
    return total_B / present_BP.sum(dim=1).clamp_min(1)


def grpo_sr_loss(
    logprobs_BGL: Tensor,
    reward_BG: Tensor,
    valid_BG: Tensor,
    nll_B: Tensor,
    supervised_B: Tensor,
    config: AlignConfig,
    admitted_B: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of a batch and its diagnostics.

    ::

        - mean_b [ 1/G sum_i 1/L sum_t  pi(o_it) / sg(pi(o_it)) * A_i ]  +  alpha * mean_b [ nll_b ]

    The ratio is 1 in value, its gradient is that of `log pi`: a plain policy gradient for rollouts of the policy
    itself. There is no clipping, no old policy, no KL term. Groups without spread, or not admitted, add nothing to the
    first mean but are counted in it; requests without positives are left out of the second.

    Args:
        logprobs_BGL: Of the rollouts, from `response_logprobs`.
        reward_BG: From `calibrated_rewards`.
        valid_BG: Where there is a candidate; `G` above counts these.
        nll_B: From `positives_nll`.
        supervised_B: Which requests have positives.
        config: Weight of the likelihood (a sum over `L` codes, where the first term is a mean), switch of the first.
        admitted_B: From `admit`; None admits all.

    Returns:
        A scalar, and detached `policy_loss`, `nll`, `zero_spread_share` (of groups), `reinforced_share` (of groups, the
        spread and admitted), `group_entropy` (nats, of the policy restricted to the group's candidates; repeated draws
        count as different) and `group_mass` (the policy's probability of the group's candidates, mean of groups).
    """
    advantage_BG, spreads_B = group_advantages(reward_BG, valid_BG)
    taught_B = spreads_B if admitted_B is None else spreads_B & admitted_B
    ratio_BGL = (logprobs_BGL - logprobs_BGL.detach()).exp()
    gain_BG = ratio_BGL.mean(dim=-1) * advantage_BG
    gain_B = gain_BG.sum(dim=1) / valid_BG.sum(dim=1).clamp_min(1)
    policy_loss = -gain_B.where(taught_B, 0.0).mean()
    nll = nll_B.where(supervised_B, 0.0).sum() / supervised_B.sum().clamp_min(1)
    loss = config.nll_weight * nll
    if config.reinforce:
        loss = loss + policy_loss
    entropy_B, mass_B = _group_distribution(logprobs_BGL.detach().sum(dim=-1), valid_BG)
    return loss, {
        "policy_loss": policy_loss.detach(),
        "nll": nll.detach(),
        "zero_spread_share": 1 - spreads_B.float().mean(),
        "reinforced_share": taught_B.float().mean() if config.reinforce else torch.zeros_like(nll.detach()),
        "group_entropy": entropy_B.mean(),
        "group_mass": mass_B.mean(),
    }


def _group_distribution(logprob_BG: Tensor, valid_BG: Tensor) -> tuple[Tensor, Tensor]:
    """Return entropy and total of the candidates' probabilities, `[B]` each; 0 for a group without candidates."""
    masked_BG = logprob_BG.masked_fill(~valid_BG, -torch.inf)
    mass_B = masked_BG.logsumexp(dim=1).exp()
    share_BG = masked_BG.softmax(dim=1).where(valid_BG, 0.0)
    return -torch.special.xlogy(share_BG, share_BG).sum(dim=1), mass_B
