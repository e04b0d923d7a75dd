"""Gate, ranker score and calibration, by numbers that can be checked on paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from genrec_cases import make_catalogue

from models.alignment.config import AlignConfig
from models.alignment.reward import (
    NO_SCORE,
    calibrated_rewards,
    gate_scores,
    gate_threshold,
    hits,
    sid_items,
    sid_rewards,
)

TRUE, FALSE = torch.tensor(True), torch.tensor(False)


def test_items_behind_ids_are_those_of_the_catalogue_most_popular_first() -> None:
    catalogue = make_catalogue(np.random.default_rng(0), items=30, codes=(2, 3, 2))
    count = len(catalogue.sids_SL)
    offsets, items = torch.from_numpy(catalogue.offsets), torch.from_numpy(catalogue.items)
    found = sid_items(torch.arange(count)[None], offsets, items, most=3)[0]
    for row in range(count):
        behind = catalogue.items[catalogue.offsets[row] : catalogue.offsets[row + 1]][:3].tolist()
        assert [item for item in found[row].tolist() if item >= 0] == behind
        assert (catalogue.sid_of_item_N[behind] == row).all()


def test_gate_scores_equal_the_loop() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(9, 4))
    items = rng.integers(-1, 9, (3, 5))
    anchors, offsets = rng.integers(0, 9, 6), [0, 4, 5, 6]
    found = gate_scores(*(torch.tensor(part) for part in (vectors, items, anchors, offsets)))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for request in range(3):
        for place, item in enumerate(items[request]):
            own = unit[anchors[offsets[request] : offsets[request + 1]]]
            expected = float((own @ unit[item]).max()) if item >= 0 else NO_SCORE
            assert found[request, place].item() == pytest.approx(expected)


def test_gate_without_anchors_contradicts_nothing_and_empty_vectors_are_unlike_everything() -> None:
    vectors = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    scores = gate_scores(vectors, torch.tensor([[0, -1], [1, 0]]), torch.tensor([0]), torch.tensor([0, 0, 1]))
    assert scores.tolist() == [[1.0, NO_SCORE], [0.0, 1.0]]
    no_anchor_at_all = gate_scores(
        vectors, torch.tensor([[1]]), torch.zeros(0, dtype=torch.int64), torch.zeros(2).long()
    )
    assert no_anchor_at_all.tolist() == [[1.0]]


def test_gate_threshold_is_the_quantile_of_what_was_exposed() -> None:
    scores = torch.tensor([[0.5, 0.1, NO_SCORE], [0.9, 0.3, 0.7]])
    assert gate_threshold(scores, 0.0) == pytest.approx(0.1)
    assert gate_threshold(scores, 0.25) == pytest.approx(0.3)
    assert gate_threshold(scores, 1.0) == pytest.approx(0.9)
    with pytest.raises(ValueError, match=r"expected scores of exposed items, got none.*gate=false"):
        gate_threshold(torch.tensor([NO_SCORE]), 0.1)


def test_reward_of_an_id_with_several_items() -> None:
    items = torch.tensor([[[2, 0, -1], [1, 3, -1], [-1, -1, -1]]])
    scores = torch.tensor([[[0.2, 0.6, 9.0], [0.4, 0.8, 9.0], [9.0, 9.0, 9.0]]])
    exposures = torch.tensor([3, 0, 1, 0])
    best = sid_rewards(scores, items, AlignConfig(sid_reward="max"), exposures)
    np.testing.assert_allclose(best, [[0.6, 0.8, 0.0]])
    mean = sid_rewards(scores, items, AlignConfig(sid_reward="mean"), exposures)
    np.testing.assert_allclose(mean, [[(1 * 0.2 + 3 * 0.6) / 4, (0.4 + 0.8) / 2, 0.0]])


def test_hits_by_request() -> None:
    candidates = torch.tensor([[5, 2, -1], [5, 2, 5], [5, 2, 1]])
    found = hits(candidates, torch.tensor([2, 7, 5]), torch.tensor([0, 2, 3, 3]))
    assert found.tolist() == [[False, True, False], [True, False, True], [False, False, False]]


REWARD = torch.tensor([[0.2, 0.6, 0.4]])
OPEN = torch.ones(1, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("config", "gate", "positive", "expected"),
    [
        pytest.param({}, [1, 1, 1], [0, 0, 1], [0.2, 0.6, 1.0], id="a hit is worth the floor"),
        pytest.param({"floor": 0.0}, [1, 1, 1], [0, 0, 1], [0.2, 0.6, 0.6], id="the paper's maximum"),
        pytest.param({"floor": 0.0}, [1, 0, 1], [1, 0, 0], [0.4, 0.0, 0.4], id="the maximum is of gated rewards"),
        pytest.param({}, [0, 0, 0], [0, 0, 0], [0.0, 0.0, 0.0], id="all gated, no hit"),
        pytest.param({}, [0, 0, 0], [0, 1, 0], [0.0, 1.0, 0.0], id="all gated, a hit"),
        pytest.param({"floor": 0.0}, [0, 0, 0], [0, 1, 0], [0.0, 0.0, 0.0], id="all gated, a hit, the paper's maximum"),
        pytest.param({}, [1, 1, 1], [1, 1, 0], [1.0, 1.0, 0.4], id="the truth twice"),
        pytest.param({"gate": False}, [0, 0, 0], [0, 0, 0], [0.2, 0.6, 0.4], id="no gate"),
        pytest.param({"calibrate": False}, [1, 1, 0], [1, 0, 1], [0.2, 0.6, 0.0], id="not calibrated"),
    ],
)
def test_calibration(config: dict[str, object], gate: list[int], positive: list[int], expected: list[float]) -> None:
    found, _ = calibrated_rewards(
        REWARD,
        torch.tensor([gate]).bool(),
        torch.tensor([positive]).bool(),
        OPEN,
        AlignConfig(**config),  # type: ignore[arg-type]
    )
    np.testing.assert_allclose(found[0], expected)


def test_calibration_diagnostics_leave_absent_candidates_out() -> None:
    reward = torch.tensor([[0.5, 0.3, 0.9], [0.7, 0.7, 0.7]])
    gate = torch.tensor([[True, False, True], [False, False, True]])
    positive = torch.tensor([[False, False, True], [False, True, False]])
    valid = torch.tensor([[True, True, False], [True, True, False]])
    found, diagnostics = calibrated_rewards(reward, gate, positive, valid, AlignConfig())
    np.testing.assert_allclose(found, [[0.5, 0.0, 0.0], [0.0, 1.0, 0.0]])
    expected = {
        "reward_mean": 0.5 / 4,
        "reward_max": 0.5 / 2,
        "gate_rate": 1 / 4,
        "all_gated_share": 1 / 2,
        "group_hit_rate": 1 / 2,
    }
    assert {name: value.item() for name, value in diagnostics.items()} == pytest.approx(expected)
