from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from models.tokenizer.config import SemanticIdConfig
from models.tokenizer.extra_level import with_extra_level
from models.tokenizer.plots import health_plots
from models.tokenizer.report import Health, check_gates, dividing_categories, measure_health

CODES = np.array([[0, 0], [0, 0], [0, 1], [1, 1]], np.int32)
VECTORS = np.array([[0.0], [2.0], [4.0], [6.0]], np.float32)


def measured() -> Health:
    return measure_health(CODES, 4, VECTORS, VECTORS + 1, ["x", "y", "x", None])


def test_figures_by_hand() -> None:
    health = measured()
    assert health.distinct_ids == 3
    assert health.collision_rate == 2 / 4
    assert health.unique_ratio == 3 / 4
    assert health.items_per_id == {"p50": 1, "p90": 2, "p99": 2, "max": 2}
    # first level 3/4 and 1/4, second 1/2 and 1/2
    assert health.entropy_bits == pytest.approx([0.75 * np.log2(4 / 3) + 0.25 * 2, 1.0])
    assert health.perplexity_ratio[1] == 2 / 4
    assert health.dead_codes == [2, 2]
    assert health.reconstruction_error == pytest.approx(4 * 1 / (9 + 1 + 1 + 9))
    assert health.category_purity == pytest.approx(2 / 3)


def test_lines_show_the_figures() -> None:
    text = "\n".join(measured().lines())
    assert "4 items, 3 distinct IDs (ratio 0.7500), collision rate 0.5000" in text
    assert "dead codes 2 / 2" in text
    assert "category purity 0.667" in text


def test_gates_name_figures_and_fields() -> None:
    collisions = r"collision rate 0\.500 is above max_collision_rate 0\.3: raise codes \(4\)"
    with pytest.raises(ValueError, match=collisions) as caught:
        check_gates(measured(), SemanticIdConfig(codes=4, min_perplexity=0.9))
    assert "only 0.500 of a level's codes are in use, min_code_share is 0.8" in str(caught.value)
    assert "perplexity / codes is 0.439, min_perplexity is 0.9" in str(caught.value)


def test_healthy_codes_pass() -> None:
    config = SemanticIdConfig(codes=4, max_collision_rate=0.5, min_code_share=0.5, min_perplexity=0.4)
    check_gates(measured(), config)
    with pytest.raises(ValueError, match="min_code_share"):
        check_gates(dataclasses.replace(measured(), dead_codes=[3, 0]), config)


def test_dividing_category_is_the_first_that_differs() -> None:
    assert dividing_categories([["a", "b"], ["a", "c"]]) == ["b", "c"]
    assert dividing_categories([["a"], None]) == ["a", None]
    assert dividing_categories([None, None]) == [None, None]


def test_without_categories_there_is_no_purity() -> None:
    health = measure_health(CODES, 4, VECTORS, VECTORS, [None] * 4)
    assert health.category_purity is None
    assert "purity" not in "\n".join(health.lines())


def test_extra_level_makes_ids_unique() -> None:
    codes = np.random.default_rng(0).integers(0, 3, (200, 2)).astype(np.int32)
    unique = with_extra_level(codes)
    np.testing.assert_array_equal(unique[:, :2], codes)
    assert len(np.unique(unique, axis=0)) == 200
    for sid in np.unique(codes, axis=0):
        numbers = unique[(codes == sid).all(axis=1), 2]
        assert numbers.tolist() == list(range(len(numbers)))


def test_plots_are_png_files() -> None:
    plots = health_plots(CODES, 4)
    assert sorted(plots) == ["code_usage.png", "items_per_id.png"]
    assert all(plot.startswith(b"\x89PNG") for plot in plots.values())
