"""What every quantiser must do; `QUANTIZERS` is the list of those who play the role."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest

from models.tokenizer.balance import capacity
from models.tokenizer.config import SemanticIdConfig
from models.tokenizer.kmeans import ResidualKMeans, centres, sample
from models.tokenizer.quantizer import (
    Quantizer,
    load_quantizer,
    make_quantizer,
    residual_codes,
    residual_sum,
    save_quantizer,
)
from models.tokenizer.rq_vae import RqVae

QUANTIZERS = ("residual_kmeans", "rq_vae")
CONFIG = SemanticIdConfig(levels=3, codes=16, iterations=10, vae_latent=8, vae_hidden=32, vae_epochs=30, vae_batch=64)


def blobs(seed: int, count: int = 600) -> npt.NDArray[np.float32]:
    """Vectors around 12 centres of very different sizes."""
    rng = np.random.default_rng(0)
    centres_CD, shares = rng.normal(size=(12, 10)), 1 / np.arange(1, 13)
    rng = np.random.default_rng(seed)
    chosen = rng.choice(12, count, p=shares / shares.sum())
    return np.asarray(centres_CD[chosen] + 0.3 * rng.normal(size=(count, 10)), np.float32)


@pytest.fixture(scope="module", params=QUANTIZERS)
def fitted(request: pytest.FixtureRequest) -> tuple[SemanticIdConfig, Quantizer]:
    config = dataclasses.replace(CONFIG, quantizer=request.param)
    quantizer = make_quantizer(config, seed=5)
    quantizer.fit(blobs(1))
    return config, quantizer


def test_codes_have_their_shape_and_range(fitted: tuple[SemanticIdConfig, Quantizer]) -> None:
    config, quantizer = fitted
    for codes in (quantizer.assign(blobs(1)), quantizer.encode(blobs(2, count=7))):
        assert codes.dtype == np.int32
        assert codes.shape[1] == config.levels
        assert codes.min() >= 0
        assert codes.max() < config.codes
    assert quantizer.encode(blobs(2, count=0)).shape == (0, 3)


def test_assign_is_balanced_at_every_level(fitted: tuple[SemanticIdConfig, Quantizer]) -> None:
    codes = fitted[1].assign(blobs(1))
    for level in codes.T:
        assert np.bincount(level).max() <= capacity(600, 16, 1.05)


def test_encode_treats_each_item_for_itself(fitted: tuple[SemanticIdConfig, Quantizer]) -> None:
    quantizer, vectors = fitted[1], blobs(3, count=20)
    one_by_one = np.concatenate([quantizer.encode(vectors[row : row + 1]) for row in range(20)])
    np.testing.assert_array_equal(quantizer.encode(vectors), one_by_one)


def test_reconstruction_is_far_better_than_the_mean(fitted: tuple[SemanticIdConfig, Quantizer]) -> None:
    quantizer, unseen = fitted[1], blobs(4)
    error = np.square(unseen - quantizer.reconstruct(quantizer.encode(unseen))).sum()
    assert error < 0.5 * np.square(unseen - unseen.mean(axis=0)).sum()


def test_same_seed_same_codebooks(fitted: tuple[SemanticIdConfig, Quantizer]) -> None:
    config, quantizer = fitted
    again = make_quantizer(config, seed=5)
    again.fit(blobs(1))
    assert save_quantizer(again) == save_quantizer(quantizer)


def test_saved_and_loaded_it_says_the_same(fitted: tuple[SemanticIdConfig, Quantizer]) -> None:
    config, quantizer = fitted
    loaded = load_quantizer(config, save_quantizer(quantizer))
    codes = quantizer.encode(blobs(2))
    np.testing.assert_array_equal(loaded.encode(blobs(2)), codes)
    np.testing.assert_array_equal(loaded.reconstruct(codes), quantizer.reconstruct(codes))
    assert loaded.tensors()["codebooks"].shape[:2] == (3, 16)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_all_codes_live_on_items(name: str) -> None:
    config = dataclasses.replace(CONFIG, quantizer=name, balance_slack=None)
    quantizer = make_quantizer(config, seed=5)
    quantizer.fit(blobs(1))
    used = [len(np.unique(level)) for level in quantizer.assign(blobs(1)).T]
    assert min(used) >= 0.75 * config.codes


@pytest.mark.parametrize("name", QUANTIZERS)
def test_vectors_that_cannot_be_quantised_are_refused(name: str) -> None:
    quantizer = make_quantizer(dataclasses.replace(CONFIG, quantizer=name), seed=0)
    with pytest.raises(ValueError, match=r"codes: expected at most the number of items .*, 15, got 16"):
        quantizer.fit(blobs(1, count=15))
    broken = blobs(1)
    broken[3, 0] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity in 1 of 600"):
        quantizer.fit(broken)


def test_residual_codes_by_hand() -> None:
    codebooks = np.array([[[0.0], [10.0]], [[-1.0], [2.0]]], np.float32)
    vectors = np.array([[1.9], [9.1], [12.5]], np.float32)
    codes = residual_codes(vectors, codebooks, None)
    assert codes.tolist() == [[0, 1], [1, 0], [1, 1]]
    assert residual_sum(codes, codebooks).tolist() == [[2.0], [9.0], [12.0]]


def test_each_level_of_residual_kmeans_lowers_the_error() -> None:
    quantizer = ResidualKMeans(CONFIG, seed=0)
    quantizer.fit(blobs(1))
    codes = quantizer.assign(blobs(1))
    errors = [np.square(blobs(1) - residual_sum(codes[:, :k], quantizer.codebooks_LCD[:k])).sum() for k in range(4)]
    assert errors[0] > errors[1] > errors[2] > errors[3]


def test_centres_are_means_and_empty_codes_stay() -> None:
    vectors = np.array([[1.0], [3.0], [8.0]], np.float32)
    codebook = np.array([[0.0], [5.0], [9.0]], np.float32)
    assert centres(vectors, np.array([0, 0, 2], np.int32), codebook).tolist() == [[2.0], [5.0], [8.0]]


def test_sample_keeps_order_and_size() -> None:
    vectors = np.arange(100, dtype=np.float32)[:, None]
    chosen = sample(vectors, 10, seed=0)[:, 0]
    assert len(chosen) == 10
    assert (np.diff(chosen) > 0).all()
    assert sample(vectors, 100, seed=0) is vectors


def test_rq_vae_must_be_trained_before_use() -> None:
    with pytest.raises(ValueError, match="expected a trained quantiser"):
        RqVae(CONFIG, seed=0).encode(blobs(1))


def test_rq_vae_brings_a_dead_code_back() -> None:
    import torch

    quantizer = RqVae(CONFIG, seed=0)
    quantizer.fit(blobs(1))
    assert quantizer.network is not None
    with torch.no_grad():
        quantizer.network.codebooks[0, 3] = 1e6
    used = torch.ones(3, 16, dtype=torch.bool)
    used[0, 3] = False
    before = quantizer.network.codebooks.detach().clone()
    quantizer._revive(torch.from_numpy(blobs(1)), used, torch.Generator().manual_seed(0))
    changed = (quantizer.network.codebooks.detach() != before).any(dim=2)
    assert changed.nonzero().tolist() == [[0, 3]]
    assert 3 in quantizer.encode(blobs(1))[:, 0]
