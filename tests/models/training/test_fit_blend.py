"""Fitting the learned fusion's weights."""

from __future__ import annotations

import numpy as np
import pytest

from models.recommend.blend import Blend
from models.recommend.interface import NO_ITEM
from models.training.blend import Evidence, blended_items, fit_blend


def planted(weights: list[float], pages: int, seed: int) -> tuple[Evidence, np.ndarray]:
    """Pages whose liked candidate is drawn by the softmax of a known blend."""
    rng = np.random.default_rng(seed)
    relative_PFR = -rng.exponential(size=(pages, 12, len(weights))).astype(np.float32)
    items_PF = np.tile(np.arange(12), (pages, 1))
    items_PF[:, 10:] = NO_ITEM
    odds = np.exp(relative_PFR[:, :10] @ np.array(weights))
    chosen = [rng.choice(10, p=row / row.sum()) for row in odds]
    sources = tuple(f"source{number}" for number in range(len(weights)))
    evidence = Evidence(items_PF=items_PF, relative_PFR=relative_PFR, ranks_PF=items_PF, sources=sources)
    return evidence, np.arange(12) == np.array(chosen)[:, None]


def test_planted_weights_are_found() -> None:
    evidence, liked_PF = planted([1.5, 0.5, 0.0], pages=4000, seed=1)
    fitted = fit_blend(evidence, liked_PF, regularization=0.0)
    assert list(fitted.weights.values()) == pytest.approx([1.5, 0.5, 0.0], abs=0.12)


def test_regularization_shrinks() -> None:
    evidence, liked_PF = planted([1.5, 0.5], pages=300, seed=2)
    free, held = (fit_blend(evidence, liked_PF, regularization=value) for value in (0.0, 1.0))
    assert abs(held.weights["source0"]) < 0.5 * abs(free.weights["source0"])


def test_pages_without_a_liked_candidate_say_nothing() -> None:
    evidence, liked_PF = planted([1.0], pages=50, seed=3)
    liked_PF[25:] = False
    half = evidence.take(np.arange(25))
    assert fit_blend(evidence, liked_PF, 0.1).weights == pytest.approx(fit_blend(half, liked_PF[:25], 0.1).weights)
    with pytest.raises(ValueError, match="got none in 50 pages"):
        fit_blend(evidence, np.zeros_like(liked_PF), 0.1)


def test_items_are_ordered_by_the_blend() -> None:
    evidence = Evidence(
        items_PF=np.array([[4, 8, NO_ITEM]]),
        relative_PFR=np.array([[[-1.0, 0.0], [0.0, -3.0], [0.0, 0.0]]], dtype=np.float32),
        ranks_PF=np.array([[8, 4, NO_ITEM]]),
        sources=("a", "b"),
    )
    assert blended_items(evidence, Blend(weights={"a": 1.0, "b": 0.2})).tolist() == [[8, 4, NO_ITEM]]
    assert blended_items(evidence, Blend(weights={"a": 1.0, "b": 0.5})).tolist() == [[4, 8, NO_ITEM]]
