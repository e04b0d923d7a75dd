"""The loss of GRPO-SR: its gradient, its degenerate groups, and that it raises what is rewarded."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from genrec_cases import make_catalogue, make_model, make_requests
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.trie import Trie
from models.alignment.config import PAPER_ROWS, AlignConfig
from models.alignment.objective import group_advantages, grpo_sr_loss, positives_nll
from models.alignment.rollouts import roll_out
from models.alignment.shared_prefix import response_logprobs
from models.genrec.batch import pack_prompts

RL_ONLY = AlignConfig(nll_weight=0.0)


def loss_of(
    logprobs_BGL: torch.Tensor, reward_BG: torch.Tensor, config: AlignConfig, valid_BG: torch.Tensor | None = None
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of requests with one positive each of NLL 2."""
    rows = len(reward_BG)
    valid_BG = torch.ones_like(reward_BG, dtype=torch.bool) if valid_BG is None else valid_BG
    return grpo_sr_loss(
        logprobs_BGL, reward_BG, valid_BG, torch.full((rows,), 2.0), torch.ones(rows, dtype=torch.bool), config
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 4), group=st.integers(1, 6), levels=st.integers(1, 4))
def test_gradient_is_advantage_times_gradient_of_log_probability(seed: int, rows: int, group: int, levels: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logprobs = -torch.rand(rows, group, levels, generator=generator, dtype=torch.float64)
    logprobs.requires_grad_()
    reward = torch.rand(rows, group, generator=generator, dtype=torch.float64)
    valid = torch.rand(rows, group, generator=generator) < 0.7
    loss, _ = loss_of(logprobs, reward, RL_ONLY, valid)
    loss.backward()
    for b in range(rows):
        chosen = reward[b, valid[b]].numpy()
        for g in range(group):
            expected = 0.0
            if valid[b, g] and chosen.std() > 0:
                advantage = (reward[b, g].item() - chosen.mean()) / chosen.std()
                expected = -advantage / (rows * len(chosen) * levels)
            np.testing.assert_allclose(logprobs.grad[b, g], expected, atol=1e-12)  # type: ignore[index]


def test_value_is_minus_the_mean_advantage_plus_the_weighted_likelihood() -> None:
    loss, diagnostics = loss_of(-torch.ones(1, 4, 3), torch.tensor([[1.0, 0, 0, 0]]), AlignConfig(nll_weight=0.25))
    # advantages have mean zero, so only alpha * nll is left of the value
    assert loss.item() == pytest.approx(0.25 * 2.0, abs=1e-6)
    assert diagnostics["nll"].item() == pytest.approx(2.0)
    assert diagnostics["group_entropy"].item() == pytest.approx(math.log(4), abs=1e-6)
    assert diagnostics["group_mass"].item() == pytest.approx(4 * math.exp(-3), abs=1e-6)
    assert not any(value.requires_grad for value in diagnostics.values())


def test_one_hit_among_g_has_the_advantage_root_of_g_minus_one() -> None:
    advantage, spreads = group_advantages(torch.eye(1, 17), torch.ones(1, 17, dtype=torch.bool))
    np.testing.assert_allclose(advantage[0], [4.0] + [-0.25] * 16, rtol=1e-5)
    assert spreads.tolist() == [True]


@pytest.mark.parametrize(
    ("reward", "valid"),
    [
        pytest.param([0.0, 0.0, 0.0], [1, 1, 1], id="all gated"),
        pytest.param([0.7, 0.7, 0.7], [1, 1, 1], id="identical rewards"),
        pytest.param([0.7, 0.700001, 0.7], [1, 1, 1], id="rounding noise"),
        pytest.param([0.9, 0.0, 0.0], [1, 0, 0], id="one candidate"),
        pytest.param([0.0, 0.0, 0.0], [0, 0, 0], id="no candidate"),
    ],
)
def test_groups_without_spread_are_skipped_and_counted_and_keep_their_likelihood(
    reward: list[float], valid: list[int]
) -> None:
    logprobs = torch.full((2, 3, 2), -1.0, requires_grad=True)
    rewards = torch.tensor([reward, [1.0, 0.0, 0.0]])
    valid_BG = torch.tensor([valid, [1, 1, 1]]).bool()
    loss, diagnostics = loss_of(logprobs, rewards, AlignConfig(), valid_BG)
    loss.backward()
    assert logprobs.grad is not None
    assert not logprobs.grad[0].any()
    assert logprobs.grad[1].any()
    assert diagnostics["zero_spread_share"].item() == 0.5
    assert diagnostics["reinforced_share"].item() == 0.5
    assert diagnostics["nll"].item() == 2.0
    assert all(value.isfinite() for value in diagnostics.values())


def test_small_real_differences_teach() -> None:
    advantage, spreads = group_advantages(torch.tensor([[0.0021, 0.0024]]), torch.ones(1, 2, dtype=torch.bool))
    np.testing.assert_allclose(advantage, [[-1.0, 1.0]], rtol=1e-3)
    assert spreads.tolist() == [True]


def test_requests_without_positives_are_left_out_of_the_likelihood() -> None:
    logprobs_BPL = torch.tensor([[[-1.0, -2.0], [-3.0, -4.0]], [[-5.0, -6.0], [0.0, 0.0]], [[-9.0, -9.0], [0.0, 0.0]]])
    present_BP = torch.tensor([[True, True], [True, False], [False, False]])
    nll_B = positives_nll(logprobs_BPL, present_BP)
    assert nll_B.tolist() == [(3 + 7) / 2, 11.0, 0.0]
    one = torch.ones(3, 1)
    _, diagnostics = grpo_sr_loss(-one[..., None], one, one.bool(), nll_B, present_BP.any(dim=1), AlignConfig())
    assert diagnostics["nll"].item() == (5 + 11) / 2


def test_requests_that_are_not_admitted_add_nothing() -> None:
    logprobs = torch.full((2, 2, 1), -1.0, requires_grad=True)
    rewards, valid = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.ones(2, 2, dtype=torch.bool)
    loss, diagnostics = grpo_sr_loss(
        logprobs, rewards, valid, torch.zeros(2), torch.ones(2).bool(), AlignConfig(), torch.tensor([True, False])
    )
    loss.backward()
    assert logprobs.grad is not None
    assert logprobs.grad[1].abs().sum() == 0
    np.testing.assert_allclose(logprobs.grad[0, :, 0], [-0.25, 0.25])  # A = +-1, over 2 requests and 2 candidates
    assert diagnostics["reinforced_share"].item() == 0.5
    assert diagnostics["zero_spread_share"].item() == 0.0


@pytest.mark.parametrize(("row", "terms"), [("sft", "nll"), ("grpo", "policy"), ("grpo_sr", "both")])
def test_rows_of_the_papers_ablation_have_their_terms(row: str, terms: str) -> None:
    logprobs = torch.full((1, 2, 1), -1.0, requires_grad=True)
    nll = torch.tensor([2.0], requires_grad=True)
    loss, _ = grpo_sr_loss(
        logprobs,
        torch.tensor([[1.0, 0.0]]),
        torch.ones(1, 2).bool(),
        nll,
        torch.ones(1).bool(),
        AlignConfig(**PAPER_ROWS[row]),
    )
    loss.backward()
    policy_learns = logprobs.grad is not None and bool(logprobs.grad.any())
    likelihood_learns = nll.grad is not None and bool(nll.grad.any())
    assert {(True, False): "policy", (False, True): "nll", (True, True): "both"}[
        policy_learns, likelihood_learns
    ] == terms


@pytest.mark.parametrize("rollouts", ["beam", "sample"])
def test_a_rewarded_id_becomes_more_probable(rollouts: str) -> None:
    rng = np.random.default_rng(0)
    catalogue = make_catalogue(rng, items=20, codes=(3, 3, 3))
    model = make_model(catalogue)
    prompts = pack_prompts(make_requests(rng, catalogue, [2, 5, 0]), catalogue, model.config)
    trie = Trie.from_sorted(catalogue.sids_SL)
    config = AlignConfig(group=8, rollouts=rollouts, nll_weight=0.0)  # type: ignore[arg-type]
    rewarded = roll_out(model, prompts, trie, config).sids_BG[:, 5]
    codes_B1L = torch.from_numpy(catalogue.sids_SL).long()[rewarded][:, None]
    optimiser = torch.optim.SGD(model.parameters(), lr=0.02)
    generator = torch.Generator().manual_seed(0)

    def probability_B() -> torch.Tensor:
        return response_logprobs(model, prompts, codes_B1L).detach().sum(dim=-1).exp()[:, 0]

    before = probability_B()
    for _ in range(20):
        found = roll_out(model, prompts, trie, config, generator=generator)
        reward_BG = (found.sids_BG == rewarded[:, None]).float()
        logprobs = response_logprobs(model, prompts, found.codes_BGL)
        loss, _ = grpo_sr_loss(
            logprobs, reward_BG, found.valid, torch.zeros(3), torch.zeros(3, dtype=torch.bool), config
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert (probability_B() > 1.5 * before).all()
