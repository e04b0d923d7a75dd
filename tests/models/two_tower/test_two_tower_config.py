import pytest

from models.two_tower.config import TwoTowerConfig


def test_all_mistakes_are_told_together():
    with pytest.raises(ValueError, match="two-tower configuration:") as told:
        TwoTowerConfig(
            item_dimensions=6,
            hidden=(),
            history_windows=(5, 5),
            temperature=0.0,
            ssl_weight=-1.0,
            ssl_dropout=1.0,
            frequency_rate=0.0,
            log_q="yes",
            ssl_masking="fm",
        )
    for mistake in (
        "item_dimensions: expected a multiple of 4, got 6",
        r"hidden: expected one number or more, each at least 1, got \(\)",
        r"history_windows: expected one number or more, each at least 1 and distinct, got \(5, 5\)",
        "temperature: expected > 0, got 0.0",
        "ssl_weight: expected at least 0, got -1.0",
        "ssl_dropout: expected 0 <= dropout < 1, got 1.0",
        "frequency_rate: expected 0 < rate < 1, got 0.0",
        "log_q: expected one of off, all, negatives, got 'yes'",
        "ssl_masking: expected one of rfm, cfm, got 'fm'",
    ):
        assert told.match(f"(?s).*{mistake}")
