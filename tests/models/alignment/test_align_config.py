"""All mistakes of an alignment configuration are told at once."""

from __future__ import annotations

import pytest

from models.alignment.config import PAPER_ROWS, AlignConfig


@pytest.mark.parametrize("row", PAPER_ROWS)
def test_rows_of_the_papers_ablation_are_possible(row: str) -> None:
    assert AlignConfig(**PAPER_ROWS[row]) == AlignConfig(**PAPER_ROWS[row])


def test_rows_differ() -> None:
    assert len({AlignConfig(**changes) for changes in PAPER_ROWS.values()}) == len(PAPER_ROWS) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group": 1}, "group: expected at least 2, got 1"),
        ({"gate_quantile": 1.5}, "gate_quantile: expected 0 to 1, got 1.5"),
        ({"rollouts": "greedy"}, "rollouts: expected one of beam, sample, got 'greedy'"),
        ({"reward_fraction": 1.0}, "reward_fraction: expected 0 < fraction < 1, got 1.0"),
        ({"nll_weight": float("nan")}, "nll_weight: expected at least 0, got nan"),
        ({"reinforce": False, "nll_weight": 0.0}, "expected at least one term, got reinforce=False and nll_weight=0"),
        ({"reinforce": False, "admission": True}, "admission: expected reinforce=True"),
    ],
)
def test_mistakes(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AlignConfig(**changes)  # type: ignore[arg-type]


def test_mistakes_are_collected() -> None:
    with pytest.raises(ValueError, match=r"(?s)group: .*steps: .*sid_reward: .*learning_rate: "):
        AlignConfig(group=0, steps=-1, sid_reward="sum", learning_rate=0.0)  # type: ignore[arg-type]
