"""Requests that are hard for the policy and judged rightly by the ranker are admitted."""

from __future__ import annotations

import pytest
import torch

from models.alignment.admission import Judged, admit
from models.alignment.config import AlignConfig


def judged(logprob: list[float], reward: list[float], present: list[bool] | None = None) -> Judged:
    places = torch.tensor([present if present is not None else [True] * len(logprob)])
    return Judged(logprob_BX=torch.tensor([logprob]), reward_BX=torch.tensor([reward]), present_BX=places)


NEGATIVES = judged([-1.0, -2.0, -4.0], [0.1, 0.5, 0.3])  # median reward 0.3


@pytest.mark.parametrize(
    ("positives", "config", "expected"),
    [
        pytest.param(judged([-3.0], [0.4]), {}, True, id="ranked third, above the median"),
        pytest.param(judged([-0.5], [0.4]), {}, False, id="ranked first"),
        pytest.param(judged([-3.0], [0.3]), {}, False, id="at the median"),
        pytest.param(judged([-3.0], [0.4]), {"admission_rank": 3}, False, id="third is good enough"),
        pytest.param(judged([-3.0], [0.4]), {"admission_rank": 2}, True, id="third is below second"),
        pytest.param(judged([-3.0], [0.4]), {"admission_quantile": 1.0}, False, id="below the best negative"),
        pytest.param(judged([-9.0, -0.5], [0.9, 0.0]), {}, False, id="the best positive decides the rank"),
        pytest.param(judged([-9.0, -3.0], [0.9, 0.0]), {}, True, id="the best reward decides the judgement"),
        pytest.param(judged([-0.5, -3.0], [0.9, 0.9], [False, True]), {}, True, id="absent positives do not count"),
        pytest.param(judged([-3.0], [0.4], [False]), {}, False, id="no positive"),
    ],
)
def test_admission(positives: Judged, config: dict[str, object], expected: bool) -> None:
    admitted, shares = admit(NEGATIVES, positives, AlignConfig(**config))  # type: ignore[arg-type]
    assert admitted.tolist() == [expected]
    assert shares["admitted_share"].item() == float(expected)


def test_only_hits_in_the_group_compare_with_nothing() -> None:
    nothing = judged([-1.0, -2.0], [0.1, 0.2], [False, False])
    admitted, shares = admit(nothing, judged([-3.0], [0.4]), AlignConfig())
    assert admitted.tolist() == [False]
    assert shares["judged_share"].item() == 0.0
