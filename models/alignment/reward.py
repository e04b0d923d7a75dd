"""Rewards (arXiv 2604.14878, section 2.4): relevance gate x ranker score, positives lifted to the group's maximum.

The score `s` that the gate compares with its threshold is not published. Here it is the largest cosine between the
candidate's content vector, the frozen vector its semantic ID was made from, and those of the request's anchors: the
items of the history and the positives of the page.

Legend: `B` requests, `G` candidates of a group, `I` items of one semantic ID, `X` items and `Y` anchors of a request,
`A` anchors and `P` positives of all requests, `N` items, `D` width of content vectors.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.alignment.config import AlignConfig
from models.recommend.interface import NO_ITEM

NO_SCORE = -torch.inf
"""Gate score where there is no item."""


def sid_items(sids_BG: Tensor, offsets: Tensor, items: Tensor, most: int) -> Tensor:
    """Return the items behind semantic IDs, `[B, G, I]`, the most popular first and at most `most` of each.

    Args:
        sids_BG: Rows of the sorted semantic IDs, -1 where there is none.
        offsets: `Catalogue.offsets`.
        items: `Catalogue.items`.
        most: Largest `I`.

    Returns:
        Item numbers, `NO_ITEM` where an ID has fewer.

    Example:
        >>> sid_items(torch.tensor([[1, -1]]), torch.tensor([0, 1, 3]), torch.tensor([7, 4, 5]), most=2).tolist()
        [[[4, 5], [-1, -1]]]
    """
    safe_BG = sids_BG.clamp_min(0)
    counts_BG = (offsets[safe_BG + 1] - offsets[safe_BG]) * (sids_BG >= 0)
    places_I = torch.arange(min(most, int(counts_BG.max().clamp_min(1))), device=sids_BG.device)
    wanted_BGI = offsets[safe_BG][..., None] + places_I
    return torch.where(places_I < counts_BG[..., None], items[wanted_BGI.clamp_max(len(items) - 1)], NO_ITEM)


def gate_scores(vectors_ND: Tensor, items_BX: Tensor, anchors_A: Tensor, anchor_offsets: Tensor) -> Tensor:
    """Return each item's largest cosine to the anchors of its request.

    Args:
        vectors_ND: Content vectors of the items; a vector of zeros is unlike everything.
        items_BX: Item numbers, `NO_ITEM` where there is none.
        anchors_A: Item numbers of histories and positives, jagged by request.
        anchor_offsets: `B + 1` offsets into `anchors_A`.

    Returns:
        `[B, X]` in [-1, 1]; `NO_SCORE` where there is no item, and 1 in requests without any anchor, which contradict
        nothing.

    Example:
        >>> vectors = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
        >>> gate_scores(vectors, torch.tensor([[1, 0]]), torch.tensor([2]), torch.tensor([0, 1])).tolist()
        [[0.800000011920929, 0.0]]
    """
    anchors_BY = _padded(anchors_A, anchor_offsets)
    candidates_BXD = F.normalize(vectors_ND[items_BX.clamp_min(0)], dim=-1)
    anchors_BYD = F.normalize(vectors_ND[anchors_BY.clamp_min(0)], dim=-1)
    cosine_BXY = candidates_BXD @ anchors_BYD.transpose(1, 2)
    best_BX = cosine_BXY.masked_fill(anchors_BY[:, None] < 0, NO_SCORE).amax(dim=-1)
    best_BX = best_BX.masked_fill((anchors_BY < 0).all(dim=1)[:, None], 1.0)
    return best_BX.masked_fill(items_BX < 0, NO_SCORE)


def gate_threshold(scores_n: Tensor, quantile: float) -> float:
    """Return the gate score below which the `quantile` share of exposed items lies.

    Args:
        scores_n: `gate_scores` of items that were exposed, of any shape; `NO_SCORE` is left out.
        quantile: `AlignConfig.gate_quantile`.

    Raises:
        ValueError: No exposed item has a score.
    """
    known_n = scores_n[scores_n > NO_SCORE]
    if not len(known_n):
        raise ValueError("gate threshold: expected scores of exposed items, got none; turn the gate off (gate=false)")
    # torch.quantile refuses more than 16 million values
    place = round(quantile * (len(known_n) - 1))
    return float(known_n.sort().values[place])


def sid_rewards(scores_BGI: Tensor, items_BGI: Tensor, config: AlignConfig, weights_N: Tensor) -> Tensor:
    """Return the reward of semantic IDs from the scores of their items, 0 where there is no item.

    Args:
        scores_BGI: The ranker's scores in [0, 1].
        items_BGI: From `sid_items`.
        config: `sid_reward` chooses the best item or the weighted mean.
        weights_N: How often each item was exposed, for the mean; an ID whose items never were has their plain mean.
    """
    present_BGI = items_BGI >= 0
    if config.sid_reward == "max":
        return scores_BGI.masked_fill(~present_BGI, 0.0).amax(dim=-1)
    weights_BGI = weights_N[items_BGI.clamp_min(0)].to(scores_BGI.dtype) * present_BGI
    never_BG1 = weights_BGI.sum(dim=-1, keepdim=True) == 0
    weights_BGI = torch.where(never_BG1, present_BGI.to(scores_BGI.dtype), weights_BGI)
    total_BG = (weights_BGI * scores_BGI.masked_fill(~present_BGI, 0.0)).sum(dim=-1)
    return total_BG / weights_BGI.sum(dim=-1).clamp_min(1e-12)


def hits(candidates_BG: Tensor, positives_P: Tensor, offsets: Tensor) -> Tensor:
    """Return which candidates are among the positives of their request, `[B, G]`.

    Candidates and positives are of one kind. With rows of semantic IDs a hit is a *SID hit*: whatever item stands
    behind the same ID counts, which is all the policy can aim at, and what is rewarded. With item numbers, each
    candidate represented by its ID's most popular item, it is an *item hit*: what a served page would show.

    Args:
        candidates_BG: Numbers, -1 where there is none.
        positives_P: Numbers, jagged by request.
        offsets: `B + 1` offsets into `positives_P`.
    """
    positives_BY = _padded(positives_P, offsets)
    same_BGY = (candidates_BG[..., None] == positives_BY[:, None]) & (positives_BY >= 0)[:, None]
    return same_BGY.any(dim=-1)


def calibrated_rewards(
    reward_BG: Tensor, gate_BG: Tensor, is_positive_BG: Tensor, valid_BG: Tensor, config: AlignConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """Gate the ranker's scores, and lift positives to their group's largest reward.

    `r = [s >= threshold] * score`, then `r = max(max_j r_j, floor)` for candidates in D+.

    Args:
        reward_BG: Ranker's scores in [0, 1].
        gate_BG: Where the gate is open, bool.
        is_positive_BG: SID hits, bool.
        valid_BG: Where there is a candidate, bool.
        config: Switches and floor.

    Returns:
        Rewards `[B, G]`, 0 where there is no candidate, and diagnostics: `reward_mean` and `reward_max` (mean over
        groups) of the gated scores before positives are lifted, `gate_rate` (share of candidates let through),
        `all_gated_share` (of groups), `group_hit_rate` (share of groups that hold a SID hit).
    """
    passed_BG = valid_BG & gate_BG if config.gate else valid_BG
    gated_BG = reward_BG.where(passed_BG, 0.0)
    candidates = valid_BG.sum().clamp_min(1)
    hit_BG = is_positive_BG & valid_BG
    diagnostics = {
        "reward_mean": gated_BG.sum() / candidates,
        "reward_max": gated_BG.amax(dim=1).mean(),
        "gate_rate": passed_BG.sum() / candidates,
        "all_gated_share": (~passed_BG.any(dim=1)).float().mean(),
        "group_hit_rate": hit_BG.any(dim=1).float().mean(),
    }
    if not config.calibrate:
        return gated_BG, diagnostics
    largest_B1 = gated_BG.amax(dim=1, keepdim=True).clamp_min(config.floor)
    return torch.where(hit_BG, largest_B1, gated_BG), diagnostics


def _padded(values: Tensor, offsets: Tensor) -> Tensor:
    """Return jagged numbers as `[B, Y >= 1]`, -1 after the last of each row."""
    lengths_B = offsets.diff()
    places_Y = torch.arange(max(1, int(lengths_B.max())), device=values.device)
    if not len(values):
        return torch.full((len(lengths_B), 1), -1, device=values.device)
    wanted_BY = offsets[:-1, None] + places_Y
    return torch.where(places_Y < lengths_B[:, None], values[wanted_BY.clamp_max(len(values) - 1)], -1)
