import pytest
import torch
from torch import nn

from models.precision import autocast_type
from models.training.optimizers import (
    Adagrad,
    MovingAverage,
    RowWiseAdagrad,
    TableOptimizer,
    decay_groups,
    no_decay_names,
    rate_factor,
)


def test_cosine_falls_to_half_in_the_middle_and_to_zero_at_the_end():
    assert [round(rate_factor(progress, 0.0, "cosine"), 6) for progress in (0.0, 0.5, 1.0, 1.5)] == [1.0, 0.5, 0.0, 0.0]
    assert [rate_factor(progress, 0.2, "constant") for progress in (0.0, 0.1, 0.2, 1.0)] == [0.0, 0.5, 1.0, 1.0]


def test_row_wise_adagrad_by_hand():
    """First gradient [3, 4, 0, 0]: mean square 25 / 4, root 2.5; the second adds as much again."""
    table = nn.Parameter(torch.zeros(3, 4))
    optimizer = RowWiseAdagrad({"table": table})
    gradient = torch.sparse_coo_tensor([[1]], [[3.0, 4.0, 0.0, 0.0]], (3, 4), check_invariants=True)
    for expected in (-0.3 / 2.5, -0.3 / 2.5 - 0.3 / 12.5**0.5):
        table.grad = gradient
        optimizer.step(0.1)
        assert table.grad is None
        assert table[1, 0].item() == pytest.approx(expected)
    assert table[0].tolist() == table[2].tolist() == [0, 0, 0, 0]
    assert optimizer.state_dict()["table"].tolist() == [0, 12.5, 0]


def test_adagrad_of_tables_by_hand():
    """Each weight has a sum of its own: twice the gradient [3, -4] gives roots 3, 4 and 3 sqrt(2), 4 sqrt(2)."""
    table = nn.Parameter(torch.zeros(2, 2))
    optimizer = Adagrad({"table": table})
    for expected in (0.1, 0.1 + 0.1 / 2**0.5):
        table.grad = torch.sparse_coo_tensor([[1]], [[3.0, -4.0]], (2, 2), check_invariants=True)
        optimizer.step(0.1)
        assert table[1].tolist() == pytest.approx([-expected, expected])
    assert table[0].tolist() == [0, 0]
    assert optimizer.state_dict()["table"].tolist() == [[0, 0], [18, 32]]


def test_sgd_of_tables_keeps_nothing():
    table = nn.Parameter(torch.zeros(2, 2))
    table.grad = torch.sparse_coo_tensor([[1]], [[3.0, -4.0]], (2, 2), check_invariants=True)
    optimizer = TableOptimizer({"table": table})
    optimizer.step(0.1)
    assert table[1].tolist() == pytest.approx([-0.3, 0.4])
    assert optimizer.state_dict() == {}


def test_row_wise_adagrad_sums_a_row_that_occurs_twice_before_squaring():
    table = nn.Parameter(torch.zeros(2, 4))
    table.grad = torch.sparse_coo_tensor([[0, 0]], [[1.0] * 4, [1.0] * 4], (2, 4), check_invariants=True)
    optimizer = RowWiseAdagrad({"table": table})
    optimizer.step(0.1)
    assert optimizer.state_dict()["table"].tolist() == [4, 0]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(3, 2)
        self.linear = nn.Linear(2, 2)
        self.head = nn.Linear(2, 3, bias=False)
        self.head.weight = self.embed.weight

    def no_decay_names(self):
        return {"head.weight"}


def test_vectors_and_listed_parameters_do_not_decay_under_any_of_their_names():
    model = Tied()
    spared = no_decay_names(model)
    assert spared == {"embed.weight", "head.weight"}
    decayed, kept = decay_groups(dict(model.named_parameters()), spared, 0.1)
    assert [decayed["weight_decay"], kept["weight_decay"]] == [0.1, 0.0]
    assert [parameter is model.linear.weight for parameter in decayed["params"]] == [True]
    assert len(kept["params"]) == 2


def test_an_unknown_name_without_decay():
    model = Tied()
    model.no_decay_names = lambda: {"body.weight"}
    with pytest.raises(ValueError, match=r"got \['body.weight'\]"):
        no_decay_names(model)


def test_moving_average_by_hand_and_back():
    weight = nn.Parameter(torch.tensor([0.0]))
    average = MovingAverage({"weight": weight}, decay=0.5)
    with torch.no_grad():
        weight.fill_(11.0)
    average.update(step=1)  # decay (1 + 1) / (10 + 1): 2/11 * 0 + 9/11 * 11
    average.update(step=100)  # decay 0.5: (9 + 11) / 2
    with average.swapped():
        assert weight.item() == pytest.approx(10.0)
    assert weight.item() == 11.0


def test_precision_asked_for_is_precision_used():
    cpu = torch.device("cpu")
    assert autocast_type("float32", cpu) is None
    assert autocast_type("bfloat16", cpu) is torch.bfloat16
    assert autocast_type("auto", cpu) in (None, torch.bfloat16)
