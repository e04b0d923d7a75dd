"""Measuring a policy on held-out pages, and the rules that choose its weights and end its alignment.

Legend: `B` pages, `K` ranks, `G` candidates of a group.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from torch import nn

from features.semantic_ids import Catalogue
from models.alignment.config import AlignConfig
from models.genrec.config import DecodeConfig
from models.metrics import metric_key, ranking_metrics
from models.metrics.ranking import HR, NDCG
from models.recommend.genrec_retriever import GenRecRetriever
from models.recommend.requests import EvaluationCases
from models.training.alignment_data import AlignmentBatch, make_batch
from models.training.alignment_policy import Policy
from models.training.loop import Evaluate
from models.training.position import Evaluation
from models.two_tower.model import TwoTower

HIT_RATE = metric_key(HR, 10)
REWARD, HALLUCINATION, ENTROPY = "reward", "hallucination_rate", "entropy"
SHOWN = (*(metric_key(HR, k) for k in (1, 10, 50)), metric_key(NDCG, 10), HALLUCINATION, REWARD, ENTROPY)
"""What is measured, in the order of the report."""
DEPTH = 50
"""Length of the lists that are measured."""
_BATCH = 64
_ROUND = 2.0
"""More than any difference of rewards, which lie in [0, 1]."""


def held_out_measurement(
    policy: Policy, catalogue: Catalogue, cases: EvaluationCases, users: TwoTower | None, decode: DecodeConfig
) -> Evaluate:
    """Return the measurement of a policy on held-out pages.

    It finds the means over pages of `SHOWN`: hit rates and NDCG of lists of `DEPTH`, found in the whole catalogue as
    `decode` tells; the share of invalid IDs among the ten best without the trie; the gated reward of the candidates of
    each page's group, before positives are lifted; the entropy of an ID's first code, in nats.

    Args:
        policy: Measured with whatever weights it has at the time.
        catalogue: Items and semantic IDs.
        cases: Held-out pages.
        users: The two-tower model, for a policy with `user_prefix`.
        decode: How the policy will be asked.
    """
    batches, sizes = [], []
    for part in cases.batches(_BATCH):
        vectors = None if users is None else users.user_vectors(part.requests, catalogue)
        batches.append(make_batch(part, catalogue, policy.config, vectors, np.random.default_rng(0)))
        sizes.append(len(part))

    def evaluate(_: nn.Module) -> dict[str, float]:
        # Made anew each time: the keys of an item head follow from the weights of the moment.
        retriever = GenRecRetriever(policy, catalogue, decode, users)
        items_BK = retriever.retrieve(cases.requests, DEPTH).items_BK
        ranked = ranking_metrics(items_BK, cases.relevant_items, cases.relevant_offsets, ks=(1, 10, DEPTH))
        found = {name: float(values_B.mean()) for name, values_B in ranked.items()}
        own = np.average([_own(policy, batch) for batch in batches], axis=0, weights=sizes)
        found |= {REWARD: float(own[0]), ENTROPY: float(own[1])}
        found[HALLUCINATION] = retriever.hallucination_rate(cases.requests)
        return {name: found[name] for name in SHOWN}

    return evaluate


def _own(policy: Policy, batch: AlignmentBatch) -> tuple[float, float]:
    """Return the mean reward of a batch's candidates and the mean entropy of its first codes."""
    rollouts = policy.propose(batch, dataclasses.replace(policy.align, rollouts="beam"))
    reward_BG, open_BG = policy.judge.judge(batch.requests, batch.positives, batch.positive_offsets, rollouts.sids_BG)
    gated_BG = reward_BG.where(open_BG & rollouts.valid, 0.0)
    hidden_BTD, _ = policy.hidden(batch.prompts)
    first_BD = hidden_BTD.flatten(0, 1).index_select(0, batch.prompts.page_places_P)
    logprob_BC = policy.level_logits(first_BD, 0).float().log_softmax(dim=-1)
    entropy_B = -(logprob_BC.exp() * logprob_BC).sum(dim=-1)
    return float(gated_BG.sum() / rollouts.valid.sum().clamp_min(1)), float(entropy_B.mean())


class HeldOutReferee:
    """Wants the most reward that costs no hits, and ends an alignment whose reward is being exploited.

    Hits on held-out pages count what users did with what was shown to them: they miss what a better recommender would
    have shown, but a policy that loses them has left what users want.

    Args:
        config: `tolerance` and `patience`.
    """

    def __init__(self, config: AlignConfig) -> None:
        self.tolerance, self.patience = config.tolerance, config.patience

    def value(self, evaluations: list[Evaluation]) -> float:
        """Return the reward of the newest evaluation, `-inf` where its hit rate is below the best by the tolerance.

        A new best hit rate may leave the weights kept until then below it: they count no more, a new round begins, and
        every value of it is above all of the rounds before.
        """
        best, rounds, value = 0.0, 0, -math.inf
        kept: dict[str, float] | None = None
        for _, metrics in evaluations:
            best = max(best, metrics[HIT_RATE])
            least = (1 - self.tolerance) * best
            if metrics[HIT_RATE] < least:
                value = -math.inf
                continue
            if kept is not None and kept[HIT_RATE] < least:
                rounds, kept = rounds + 1, None
            if kept is None or metrics[REWARD] > kept[REWARD]:
                kept = metrics
            value = _ROUND * rounds + metrics[REWARD]
        return value

    def stop(self, evaluations: list[Evaluation]) -> str:
        """Return why the reward is taken to be exploited, or an empty text.

        It is when, in each of the last `patience` evaluations, the hit rate lay below the best earlier one by more than
        the tolerance, while the reward lay above the reward of that best one.
        """
        recent = [metrics for _, metrics in evaluations[-self.patience :]]
        earlier = [metrics for _, metrics in evaluations[: -self.patience]]
        if not earlier:
            return ""
        best = max(earlier, key=lambda metrics: metrics[HIT_RATE])
        least, reward = (1 - self.tolerance) * best[HIT_RATE], best[REWARD]
        if not all(metrics[HIT_RATE] < least and metrics[REWARD] > reward for metrics in recent):
            return ""
        return (
            f"held-out HR@10 fell from {best[HIT_RATE]:.4f} to {recent[-1][HIT_RATE]:.4f} while reward rose from "
            f"{reward:.4f} to {recent[-1][REWARD]:.4f}: the reward is being exploited"
        )
