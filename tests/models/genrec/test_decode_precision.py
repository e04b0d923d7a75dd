"""Decoding in bfloat16: the same scores up to the rounding of products, and mistakes in the setting are told."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from genrec_cases import make_catalogue, make_model, make_requests

from models.genrec.config import DecodeConfig
from models.recommend.genrec_retriever import GenRecRetriever


def test_bfloat16_scores_lie_near_those_of_float32() -> None:
    rng = np.random.default_rng(3)
    catalogue = make_catalogue(rng)
    model, requests = make_model(catalogue), make_requests(rng, catalogue, [0, 3, 9])
    exact, rounded = (
        GenRecRetriever(model, catalogue, DecodeConfig(beams=64, precision=precision)).retrieve(
            requests, len(catalogue)
        )
        for precision in ("float32", "bfloat16")
    )
    for row in range(len(requests)):
        by_item = dict(zip(rounded.items_BK[row].tolist(), rounded.scores_BK[row].tolist(), strict=True))
        found = [by_item[item] for item in exact.items_BK[row].tolist()]
        np.testing.assert_allclose(found, exact.scores_BK[row], atol=0.3)
        assert found != exact.scores_BK[row].tolist()
    assert rounded.scores_BK.dtype == np.float32
    assert not torch.is_autocast_enabled("cpu")


def test_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got 0; precision: expected one of auto, float32, bfloat16, got 'half'"):
        DecodeConfig(beams=0, precision="half")  # type: ignore[arg-type]
