import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models.two_tower.loss import contrastive, mixture_probability, sampled_softmax


def test_values_by_hand():
    user = torch.tensor([[1.0, 0.0]])
    items = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    loss, first = sampled_softmax(user, items, torch.tensor([0]), temperature=0.5)
    assert float(loss) == pytest.approx(math.log(1 + math.exp(-2)))  # cosines 1 and 0, divided by 1/2
    assert float(first) == 1.0
    log_q = torch.tensor([0.5, 0.25]).log()  # logits 2 + log 2 and 0 + log 4
    corrected, _ = sampled_softmax(user, items, torch.tensor([0]), temperature=0.5, log_q_C=log_q)
    assert float(corrected) == pytest.approx(math.log(1 + 4 / (2 * math.exp(2))))


def test_other_positives_of_the_page_are_no_negatives():
    user, items = torch.eye(3)[:1], torch.eye(3)
    loss, _ = sampled_softmax(
        user, items, torch.tensor([0]), temperature=1.0, hidden=(torch.tensor([0]), torch.tensor([2]))
    )
    assert float(loss) == pytest.approx(math.log(1 + math.exp(-1)))


def _gradient(user, items, positive, **options):
    leaf = items.clone().requires_grad_()
    sampled_softmax(user, leaf, positive, temperature=0.5, **options)[0].backward()
    return leaf.grad


def test_an_even_probability_changes_no_gradient():
    torch.manual_seed(0)
    user, items = F.normalize(torch.randn(5, 4)), F.normalize(torch.randn(7, 4))
    positive = torch.arange(5)
    plain = _gradient(user, items, positive)
    even = _gradient(user, items, positive, log_q_C=torch.full((7,), 0.03).log())
    torch.testing.assert_close(plain, even)


@pytest.fixture(scope="module")
def distances():
    """How far the mean gradient over batches is from that of the full softmax over 30 items, by kind of correction.

    A batch holds 12 examples whose positives follow a power law; a candidate's probability is known exactly.
    """
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    items, users, batch, draws = F.normalize(torch.randn(30, 6)), F.normalize(torch.randn(50, 6)), 12, 700
    share = 1 / (1 + np.arange(30))
    positive_U = rng.choice(30, 50, p=share / share.sum())
    share = np.bincount(positive_U, minlength=30) / 50
    log_q = torch.from_numpy(np.log(np.maximum(1 - (1 - share) ** batch, 1e-9))).float()
    full = _gradient(users, items, torch.from_numpy(positive_U))
    means = {name: torch.zeros_like(full) for name in ("negatives", "all", "off", "wrong sign")}
    for _ in range(draws):
        drawn = rng.integers(0, 50, batch)
        chosen = np.unique(positive_U[drawn])
        place = torch.from_numpy(np.searchsorted(chosen, positive_U[drawn]))
        for name, sign in (("negatives", 1.0), ("all", 1.0), ("off", 0.0), ("wrong sign", -1.0)):
            options = {"log_q_C": sign * log_q[chosen], "correct_positive": name != "negatives"}
            means[name][chosen] += _gradient(users[drawn], items[chosen], place, **options) / draws
    # items that are nobody's positive are never a candidate of a batch
    met = torch.from_numpy(share > 0)
    return {name: float((mean - full)[met].norm() / full[met].norm()) for name, mean in means.items()}


def test_the_correction_moves_the_gradient_towards_the_full_softmax(distances):
    assert distances["all"] < distances["off"] < distances["wrong sign"]


def test_an_uncorrected_positive_moves_it_nearer_still(distances):
    assert distances["negatives"] < distances["all"]


def test_mixture_probability_is_the_share_of_batches_that_hold_an_item():
    rng = np.random.default_rng(0)
    rounds, items, drawn = 20_000, 5, 2
    in_batch = np.array([0.0, 0.1, 0.3, 0.6, 1.0])
    held = rng.random((rounds, items)) < in_batch
    held |= rng.permuted(np.tile(np.arange(items), (rounds, 1)), axis=1) < drawn
    expected = mixture_probability(torch.from_numpy(in_batch), drawn / items).numpy()
    assert held.mean(0) == pytest.approx(expected, abs=0.01)


def test_contrastive_by_hand():
    one, other = torch.eye(2), torch.eye(2).flip(0)
    loss, first = contrastive(one, one, temperature=0.5)
    assert (float(loss), float(first)) == (pytest.approx(math.log(1 + math.exp(-2))), 1.0)
    loss, first = contrastive(one, other, temperature=0.5)
    assert (float(loss), float(first)) == (pytest.approx(math.log(1 + math.exp(2))), 0.0)


@pytest.mark.parametrize("correct_positive", [True, False])
def test_loss_and_gradients_are_those_of_cross_entropy(correct_positive):
    torch.manual_seed(0)
    user, items = F.normalize(torch.randn(5, 4)).requires_grad_(), F.normalize(torch.randn(7, 4)).requires_grad_()
    positive, log_q = torch.tensor([0, 1, 1, 3, 6]), torch.rand(7).log()
    hidden = torch.tensor([0, 4]), torch.tensor([2, 2])
    logits = user @ items.T / 0.01 - log_q
    if not correct_positive:
        logits = logits + F.one_hot(positive, 7) * log_q
    logits = logits.masked_fill(torch.zeros(5, 7, dtype=torch.bool).index_put(hidden, torch.tensor(True)), -torch.inf)
    expected = F.cross_entropy(logits, positive)
    loss, first = sampled_softmax(
        user, items, positive, temperature=0.01, log_q_C=log_q, correct_positive=correct_positive, hidden=hidden
    )
    torch.testing.assert_close(loss, expected)
    assert float(first) == float((logits.detach().argmax(1) == positive).float().mean())
    gradients = torch.autograd.grad(3 * loss, (user, items))
    torch.testing.assert_close(gradients, torch.autograd.grad(3 * expected, (user, items)))
