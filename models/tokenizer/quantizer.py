"""The role of a quantiser, and what all residual quantisers share.

Legend: `N` items, `L` levels, `C` codes per level, `D` width of a vector.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load, save

from models.tokenizer.balance import balanced_assign, capacity
from models.tokenizer.config import RESIDUAL_KMEANS, SemanticIdConfig

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int32]


class Quantizer(Protocol):
    """Turns vectors into codes, coarse to fine: residual k-means or RQ-VAE."""

    def fit(self, vectors_ND: Floats) -> None:
        """Learn the codebooks; same vectors, configuration and seed give the same codebooks."""
        ...

    def assign(self, vectors_ND: Floats) -> Codes:
        """Return `[N, L]` codes of a whole catalogue, balanced where the configuration says so."""
        ...

    def encode(self, vectors_ND: Floats) -> Codes:
        """Return `[N, L]` nearest codes, each item for itself: the rule for items that come later."""
        ...

    def reconstruct(self, codes_NL: Codes) -> Floats:
        """Return the `[N, D]` vectors that codes stand for."""
        ...

    def tensors(self) -> dict[str, npt.NDArray[np.floating]]:
        """Return all that was learned, by name; `codebooks` has shape `[L, C, width]`."""
        ...

    def restore(self, tensors: dict[str, npt.NDArray[np.floating]]) -> None:
        """Take over what `tensors` returned."""
        ...


def make_quantizer(config: SemanticIdConfig, seed: int) -> Quantizer:
    """Return the untrained quantiser that the configuration names."""
    if config.quantizer == RESIDUAL_KMEANS:
        from models.tokenizer.kmeans import ResidualKMeans

        return ResidualKMeans(config, seed)
    from models.tokenizer.rq_vae import RqVae

    return RqVae(config, seed)


def save_quantizer(quantizer: Quantizer) -> bytes:
    """Return the learned tensors as a safetensors file."""
    return save({name: np.ascontiguousarray(tensor) for name, tensor in quantizer.tensors().items()})


def load_quantizer(config: SemanticIdConfig, content: bytes) -> Quantizer:
    """Return the quantiser whose `save_quantizer` gave `content`."""
    quantizer = make_quantizer(config, seed=0)
    quantizer.restore(load(content))
    return quantizer


def squared_distances(vectors_ND: Floats, codebook_CD: Floats) -> Floats:
    """Return `[N, C]` squared Euclidean distances."""
    distances_NC = vectors_ND @ (-2.0 * codebook_CD.T)
    distances_NC += np.square(vectors_ND).sum(axis=1, keepdims=True)
    distances_NC += np.square(codebook_CD).sum(axis=1)
    return np.maximum(distances_NC, 0.0, out=distances_NC)


def assign_level(vectors_ND: Floats, codebook_CD: Floats, slack: float | None) -> Codes:
    """Return the code of each vector in one codebook: balanced with a `slack`, else the nearest one."""
    if slack is not None:
        distances_NC = squared_distances(vectors_ND, codebook_CD)
        return balanced_assign(distances_NC, capacity(len(vectors_ND), len(codebook_CD), slack))
    chunks = range(0, len(vectors_ND), _CHUNK)
    nearest = [squared_distances(vectors_ND[start : start + _CHUNK], codebook_CD).argmin(axis=1) for start in chunks]
    return np.concatenate([np.empty(0, np.int32), *nearest]).astype(np.int32)


def residual_codes(vectors_ND: Floats, codebooks_LCD: Floats, slack: float | None) -> Codes:
    """Return `[N, L]` codes: each level quantises what the levels before it left over."""
    codes_NL = np.empty((len(vectors_ND), len(codebooks_LCD)), np.int32)
    residual_ND = vectors_ND
    for level, codebook_CD in enumerate(codebooks_LCD):
        codes_NL[:, level] = assign_level(residual_ND, codebook_CD, slack)
        residual_ND = residual_ND - codebook_CD[codes_NL[:, level]]
    return codes_NL


def residual_sum(codes_NL: Codes, codebooks_LCD: Floats) -> Floats:
    """Return the `[N, D]` sum of the codebook vectors that `codes_NL` names."""
    total_ND = np.zeros((len(codes_NL), codebooks_LCD.shape[2]), np.float32)
    for level, codebook_CD in enumerate(codebooks_LCD):
        total_ND += codebook_CD[codes_NL[:, level]]
    return total_ND


def check_vectors(vectors_ND: Floats, codes: int) -> None:
    """Refuse vectors from which `codes` codes cannot be learned.

    Raises:
        ValueError: Fewer vectors than codes, or a vector that is not finite.
    """
    if len(vectors_ND) < codes:
        raise ValueError(
            f"codes: expected at most the number of items known before the split, {len(vectors_ND)}, got {codes}; "
            "lower codes"
        )
    if not np.isfinite(vectors_ND).all():
        broken = int((~np.isfinite(vectors_ND).all(axis=1)).sum())
        raise ValueError(f"item vectors: expected finite numbers, got NaN or infinity in {broken} of {len(vectors_ND)}")


_CHUNK = 65_536
