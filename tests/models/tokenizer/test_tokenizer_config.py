from __future__ import annotations

import subprocess
import sys

import pytest

from models.tokenizer.config import SemanticIdConfig


def test_all_mistakes_are_shown_at_once() -> None:
    with pytest.raises(ValueError, match="levels: expected at least 1, got 0") as caught:
        SemanticIdConfig(levels=0, quantizer="pq", collaborative="als", balance_slack=0.9, max_collision_rate=2.0)
    message = str(caught.value)
    assert "quantizer: expected one of residual_kmeans, rq_vae, got 'pq'" in message
    assert "collaborative: expected one of cooccurrence, two_tower, got 'als'" in message
    assert "balance_slack: expected at least 1 (or null), got 0.9" in message
    assert "max_collision_rate: expected 0 to 1, got 2.0" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "vectors"}, "source_path: expected a path for source 'vectors', got None"),
        ({"source_path": "x"}, "source_path: expected none for source 'tfidf', got 'x'"),
        ({"content_weight": 0.0, "collaborative_dimensions": 0}, "content_weight: expected more than 0"),
        ({"content_weight": -1.0}, "expected no negative number, got -1.0 and 1.0"),
        ({"vae_learning_rate": 0.0}, "vae_learning_rate: expected more than 0, got 0.0"),
    ],
)
def test_relations_between_fields(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SemanticIdConfig(**options)


def test_extra_level_has_a_codebook_size_too() -> None:
    assert SemanticIdConfig(levels=2, codes=8).codes_per_level == (8, 8)
    assert SemanticIdConfig(levels=2, codes=8, extra_level=True).codes_per_level == (8, 8, 8)


def test_config_imports_no_heavy_library() -> None:
    code = "import sys, models.tokenizer.config; print({'torch', 'faiss', 'sklearn', 'numpy'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
