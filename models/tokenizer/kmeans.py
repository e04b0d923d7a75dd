"""Residual k-means: each level clusters what the levels before it left over (as GenRec, OneRec and OxygenREC do).

Legend: `N` items, `L` levels, `C` codes per level, `D` width of a vector.
"""

from __future__ import annotations

import faiss
import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from models.tokenizer.config import SemanticIdConfig
from models.tokenizer.quantizer import Codes, Floats, assign_level, check_vectors, residual_codes, residual_sum

SAMPLE_PER_CODE = 1024
"""A codebook is learned from at most so many random items per code: more change it little and cost time."""


class ResidualKMeans:
    """Quantiser whose level `l` is a k-means of the residuals of level `l - 1`, then balanced.

    With `balance_slack`, k-means is followed by rounds of balanced assignment and re-centring (as capacity-constrained
    RQ-KMeans, UniRec, arXiv 2604.12234), so that centroids move to where the items are.

    Args:
        config: Shape and balance.
        seed: Start of k-means and choice of the sample.

    Example:
        >>> config = SemanticIdConfig(levels=1, codes=2, balance_slack=None)
        >>> quantizer = ResidualKMeans(config, seed=0)
        >>> quantizer.fit(np.array([[0.0], [0.2], [9.0], [9.2]], np.float32))
        >>> codes = quantizer.encode(np.array([[8.0], [9.9], [1.0]], np.float32))
        >>> bool(codes[0] == codes[1]), bool(codes[0] == codes[2])
        (True, False)
    """

    def __init__(self, config: SemanticIdConfig, seed: int) -> None:
        self.config = config
        self.seed = seed
        self.codebooks_LCD: Floats = np.empty((0, 0, 0), np.float32)

    def fit(self, vectors_ND: Floats) -> None:
        """Learn one codebook per level."""
        check_vectors(vectors_ND, self.config.codes)
        residual_ND = sample(vectors_ND, SAMPLE_PER_CODE * self.config.codes, self.seed)
        codebooks = []
        for level in range(self.config.levels):
            codebook_CD = kmeans(residual_ND, self.config.codes, self.config.iterations, self.seed + level)
            if self.config.balance_slack is not None:
                for _ in range(self.config.balance_rounds):
                    codes_N = assign_level(residual_ND, codebook_CD, self.config.balance_slack)
                    codebook_CD = centres(residual_ND, codes_N, codebook_CD)
            codes_N = assign_level(residual_ND, codebook_CD, self.config.balance_slack)
            residual_ND = residual_ND - codebook_CD[codes_N]
            codebooks.append(codebook_CD)
        self.codebooks_LCD = np.stack(codebooks)

    def assign(self, vectors_ND: Floats) -> Codes:
        """Return `[N, L]` codes of a whole catalogue, balanced where the configuration says so."""
        return residual_codes(vectors_ND, self.codebooks_LCD, self.config.balance_slack)

    def encode(self, vectors_ND: Floats) -> Codes:
        """Return `[N, L]` nearest codes."""
        return residual_codes(vectors_ND, self.codebooks_LCD, None)

    def reconstruct(self, codes_NL: Codes) -> Floats:
        """Return the `[N, D]` vectors that codes stand for."""
        return residual_sum(codes_NL, self.codebooks_LCD)

    def tensors(self) -> dict[str, npt.NDArray[np.floating]]:
        """Return the codebooks."""
        return {"codebooks": self.codebooks_LCD}

    def restore(self, tensors: dict[str, npt.NDArray[np.floating]]) -> None:
        """Take over codebooks."""
        self.codebooks_LCD = tensors["codebooks"].astype(np.float32)


def kmeans(vectors_ND: Floats, codes: int, iterations: int, seed: int) -> Floats:
    """Return the `[C, D]` centroids of faiss' k-means, started from random vectors."""
    clustering = faiss.Kmeans(
        vectors_ND.shape[1],
        codes,
        niter=iterations,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=SAMPLE_PER_CODE,
    )
    clustering.train(np.ascontiguousarray(vectors_ND))
    return np.asarray(clustering.centroids, np.float32).copy()


def centres(vectors_ND: Floats, codes_N: Codes, codebook_CD: Floats) -> Floats:
    """Return the mean vector of each code's items; a code without items stays where it is."""
    items = np.arange(len(codes_N))
    members_CN = sp.csr_array((np.ones(len(items), np.float32), (codes_N, items)), (len(codebook_CD), len(items)))
    counts_C = np.bincount(codes_N, minlength=len(codebook_CD))[:, None]
    means_CD = (members_CN @ vectors_ND) / np.maximum(counts_C, 1)
    return np.where(counts_C > 0, means_CD, codebook_CD).astype(np.float32)


def sample(vectors_ND: Floats, most: int, seed: int) -> Floats:
    """Return `most` random rows in their order, or all rows where there are no more."""
    if len(vectors_ND) <= most:
        return vectors_ND
    chosen = np.random.default_rng(seed).choice(len(vectors_ND), most, replace=False)
    return vectors_ND[np.sort(chosen)]
