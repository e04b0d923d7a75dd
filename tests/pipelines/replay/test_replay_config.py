from __future__ import annotations

import pytest

from pipelines.replay.config import ReplayConfig


def test_all_mistakes_are_told_at_once():
    with pytest.raises(ValueError, match="replay: ") as told:
        ReplayConfig(
            reward={"like": 1.0},
            unit="shop",
            clusters="sid0",
            since="yesterday",
            until="2026-2-1",
            folds=1,
            confidence=1.0,
            margin=-0.5,
        )
    for part in (
        "reward: expected weights, not all 0, of click, cart, purchase, dislike, value; got {'like': 1.0}",
        "unit: expected one of page, item, user, got 'shop'",
        "clusters: expected category, sid1, sid2 and so on, got 'sid0'",
        "since: expected a day YYYY-MM-DD, got 'yesterday'",
        "until: expected a day YYYY-MM-DD, got '2026-2-1'",
        "folds: expected at least 2, got 1",
        "confidence: expected more than 0 and less than 1, got 1.0",
        "margin: expected a finite number >= 0, got -0.5",
    ):
        assert part in str(told.value)


def test_a_reward_of_nothing_is_refused():
    with pytest.raises(ValueError, match="not all 0"):
        ReplayConfig(reward={"click": 0.0})


def test_a_reward_model_that_is_none_cannot_decide():
    with pytest.raises(ValueError, match=r"estimator: expected one that needs no reward model .*, got 'dm'"):
        ReplayConfig(estimator="dm", reward_model="none")
