"""Groups of candidates: the beam's are the best, the draws follow the policy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from genrec_cases import make_catalogue, make_model, make_requests

from features.semantic_ids import Catalogue
from kernels.trie import Trie
from models.alignment.config import AlignConfig
from models.alignment.rollouts import roll_out, sid_codes
from models.alignment.shared_prefix import response_logprobs
from models.genrec.batch import PackedBatch, pack_prompts
from models.genrec.decode import exhaustive_scores
from models.genrec.model import GenRec


def make_case(lengths: list[int]) -> tuple[Catalogue, GenRec, PackedBatch, Trie]:
    rng = np.random.default_rng(0)
    catalogue = make_catalogue(rng, items=14, codes=(3, 3, 3))
    model = make_model(catalogue)
    prompts = pack_prompts(make_requests(rng, catalogue, lengths), catalogue, model.config)
    return catalogue, model, prompts, Trie.from_sorted(catalogue.sids_SL)


def constrained_probabilities(model: GenRec, prompts: PackedBatch, sids_SL: np.ndarray) -> np.ndarray:
    """The policy under the trie of one request: each code's probability divided by that of its valid siblings."""
    codes_1SL = torch.from_numpy(sids_SL).long()[None]
    step_SL = response_logprobs(model, prompts, codes_1SL)[0].exp().double().detach().numpy()
    probability_S = np.ones(len(sids_SL))
    for row, sid in enumerate(sids_SL):
        for level in range(sids_SL.shape[1]):
            siblings = (sids_SL[:, :level] == sid[:level]).all(axis=1)
            _, first = np.unique(sids_SL[siblings, level], return_index=True)
            probability_S[row] *= step_SL[row, level] / step_SL[siblings, level][first].sum()
    return probability_S


def test_codes_of_rows() -> None:
    catalogue, _, _, trie = make_case([1])
    rows = torch.arange(len(catalogue.sids_SL))
    np.testing.assert_array_equal(sid_codes(trie, rows).numpy(), catalogue.sids_SL)
    assert sid_codes(trie, torch.tensor([-1])).tolist() == [[0, 0, 0]]


def test_beam_gives_the_most_probable_ids_in_order() -> None:
    catalogue, model, prompts, trie = make_case([3, 0])
    count = len(catalogue.sids_SL)
    found = roll_out(model, prompts, trie, AlignConfig(group=count))
    order = exhaustive_scores(model, prompts, torch.from_numpy(catalogue.sids_SL).long()).argsort(1, descending=True)
    assert torch.equal(found.sids_BG, order)
    assert torch.equal(found.codes_BGL, torch.from_numpy(catalogue.sids_SL).long()[order])


def test_more_candidates_than_ids_leaves_places_empty() -> None:
    catalogue, model, prompts, trie = make_case([3])
    count = len(catalogue.sids_SL)
    found = roll_out(model, prompts, trie, AlignConfig(group=count + 2))
    assert found.valid.sum().item() == count
    assert found.codes_BGL[0, count:].eq(0).all()


def test_draws_follow_the_policy_under_the_trie() -> None:
    catalogue, model, _, trie = make_case([4])
    requests = make_requests(np.random.default_rng(1), catalogue, [4])
    many = pack_prompts(requests.take(np.zeros(250, dtype=np.int64)), catalogue, model.config)
    config = AlignConfig(group=40, rollouts="sample")
    found = roll_out(model, many, trie, config, generator=torch.Generator().manual_seed(1))
    draws = 250 * 40
    share_S = np.bincount(found.sids_BG.flatten().numpy(), minlength=len(catalogue.sids_SL)) / draws
    one = pack_prompts(requests, catalogue, model.config)
    expected_S = constrained_probabilities(model, one, catalogue.sids_SL)
    assert expected_S.sum() == pytest.approx(1.0, abs=1e-6)
    five_sigma_S = 5 * np.sqrt(expected_S * (1 - expected_S) / draws)
    assert (np.abs(share_S - expected_S) < five_sigma_S + 1e-4).all()


def test_draws_repeat_with_their_seed_and_differ_between_requests() -> None:
    _, model, prompts, trie = make_case([4, 4])
    config = AlignConfig(group=8, rollouts="sample")
    first, second = (
        roll_out(model, prompts, trie, config, generator=torch.Generator().manual_seed(3)).sids_BG for _ in range(2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_stays_as_it_was(training: bool) -> None:
    _, model, prompts, trie = make_case([2])
    model.train(training)
    roll_out(model, prompts, trie, AlignConfig())
    assert model.training is training
