"""Configuration of the alignment."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlignConfig:
    """Which rollouts are rewarded how, which terms the loss has, and how long is aligned.

    The paper (arXiv 2604.14878) publishes the terms of the loss and of the reward, but none of the numbers and neither
    the gate's score nor the kind of rollout: those are this project's.
    """

    group: int = 16
    """Candidates `G` per request; the cost of a step grows with prompt + (levels - 1) x group places."""
    rollouts: Literal["beam", "sample"] = "beam"
    """`beam`: the `group` most probable valid semantic IDs, all different, as they are served. `sample`: independent
    draws from the policy among valid IDs, with repetition: the policy gradient is then unbiased but for the trie's
    renormalisation. A beam's is not: every ID counts once, however probable."""
    reinforce: bool = True
    """Use the policy-gradient term; without it the run is a supervised continuation on the same pages."""
    nll_weight: float = 0.1
    """Weight alpha of the positives' negative log-likelihood, which is a sum over levels while the policy-gradient term
    is a mean over them: at 3 levels alpha = 1 is a weight of 3 per token. More keeps hits and gains less reward; 0 is
    plain GRPO, which loses both hits and valid IDs. An item head's likelihood of the positives is added with
    `GenRecConfig.item_head` times this weight; with 0 the head stays behind what it reads from."""
    gate: bool = True
    """Give candidates no reward whose content is unlike all items of the history and of the page's positives."""
    gate_quantile: float = 0.1
    """Share of exposed items whose gate score is at most the threshold; larger closes the gate for more candidates."""
    calibrate: bool = True
    """Lift candidates that are positives of the page to the largest reward of their group."""
    floor: float = 1.0
    """Least value of that largest reward, so that a hit counts in a group whose other rewards are small or all gated to
    zero. Ranker scores lie in [0, 1]: 1 makes a hit worth 1 in every group, 0 is the paper's formula."""
    sid_reward: Literal["max", "mean"] = "max"
    """Reward of a semantic ID with several items: of its best item, or the mean weighted by exposures."""
    admission: bool = False
    """Use the policy-gradient term only for requests that the policy finds hard and the ranker judges rightly (AdaGRPO,
    arXiv 2606.08480); the negative log-likelihood stays on for all."""
    admission_rank: int = 1
    """Hard: the best positive ranks below this place among the rollouts, by the policy's log-probability."""
    admission_quantile: float = 0.5
    """Judged rightly: the best positive's reward exceeds this quantile of the rewards of rollouts that are none."""
    learning_rate: float = 3e-5
    """Rate of AdamW after its warm-up, far below supervised training's."""
    steps: int = 500
    """Optimiser steps at most; 0 leaves the alignment out of `pagewise run`, which then releases the supervised run."""
    pages_per_step: int = 32
    """Requests, each with one group of rollouts, per step and process."""
    evaluate_every_steps: int = 50
    """Steps between evaluations on held-out pages, where the stop rule looks; `steps` is rounded up to whole ones."""
    validation_pages: int = 1_000
    """Pages drawn once from the validation split for it."""
    patience: int = 2
    """Stop after so many evaluations in a row with the held-out hit rate below its best while the reward rose."""
    tolerance: float = 0.02
    """Share of its best that the hit rate must have lost to count as below it. The weights with the most reward are
    kept among those that are not below it: what hits may be given for reward."""
    reward_fraction: float = 0.5
    """Share of the training days, the earliest, that the reward's ranker is trained on; pages of the others are aligned
    on, so that no page is rewarded by a ranker that has seen its clicks."""

    def __post_init__(self) -> None:
        mistakes = [
            f"{name}: expected at least {least}, got {getattr(self, name)}"
            for name, least in _AT_LEAST.items()
            if not getattr(self, name) >= least
        ]
        mistakes += self._shares()
        mistakes += [
            f"{name}: expected one of {', '.join(choices)}, got {getattr(self, name)!r}"
            for name, choices in _CHOICES.items()
            if getattr(self, name) not in choices
        ]
        if not self.learning_rate > 0:
            mistakes.append(f"learning_rate: expected > 0, got {self.learning_rate}")
        if not self.reinforce and self.nll_weight == 0:
            mistakes.append("reinforce, nll_weight: expected at least one term, got reinforce=False and nll_weight=0")
        if not self.reinforce and self.admission:
            mistakes.append("admission: expected reinforce=True, whose term it admits, got reinforce=False")
        if mistakes:
            raise ValueError("alignment configuration:\n  " + "\n  ".join(mistakes))

    def _shares(self) -> list[str]:
        mistakes = [
            f"{name}: expected 0 to 1, got {getattr(self, name)}"
            for name in ("gate_quantile", "floor", "admission_quantile", "tolerance")
            if not 0 <= getattr(self, name) <= 1
        ]
        if not 0 < self.reward_fraction < 1:
            mistakes.append(f"reward_fraction: expected 0 < fraction < 1, got {self.reward_fraction}")
        return mistakes


_AT_LEAST = {
    "group": 2,
    "nll_weight": 0,
    "admission_rank": 1,
    "steps": 0,
    "pages_per_step": 1,
    "evaluate_every_steps": 1,
    "validation_pages": 1,
    "patience": 1,
}
_CHOICES = {"rollouts": ("beam", "sample"), "sid_reward": ("max", "mean")}

PAPER_ROWS: dict[str, dict[str, Any]] = {
    "sft": {"reinforce": False},
    "grpo": {"nll_weight": 0.0},
    "grpo_sr": {},
    "grpo_no_gate": {"nll_weight": 0.0, "gate": False},
    "grpo_sr_no_gate": {"gate": False},
}
"""What each row of the paper's ablation (its Table 3) changes of an `AlignConfig`."""
