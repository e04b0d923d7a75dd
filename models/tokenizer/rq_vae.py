"""RQ-VAE (TIGER, arXiv 2305.05065): residual codebooks in the latent space of a small autoencoder.

Legend: `N` items, `L` levels, `C` codes per level, `D` width of a vector, `Z` width of a latent.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.tokenizer.config import SemanticIdConfig
from models.tokenizer.kmeans import kmeans
from models.tokenizer.quantizer import Codes, Floats, check_vectors, residual_codes, residual_sum

COMMITMENT = 0.25
"""Weight beta of the term that pulls latents to their codes; the published value."""


class RqVae:
    """Quantiser that learns encoder, codebooks and decoder together.

    loss = |x - decoder(z_q)|^2 + sum over levels of |sg(r) - e|^2 + beta |r - sg(e)|^2, with the straight-through
    gradient from z_q to z. Codebooks start from a residual k-means of the first latents; after each epoch a code that
    no item chose is put on a random item's residual, for a code far from all items would never be chosen again.

    Args:
        config: Shape, balance and training (`vae_*`).
        seed: Initial weights, k-means, order of items, revival.
    """

    def __init__(self, config: SemanticIdConfig, seed: int) -> None:
        self.config = config
        self.seed = seed
        self.network: _Autoencoder | None = None

    def fit(self, vectors_ND: Floats) -> None:
        """Train for `vae_epochs` epochs."""
        check_vectors(vectors_ND, self.config.codes)
        generator = torch.Generator().manual_seed(self.seed)
        self.network = network = _Autoencoder(self.config, vectors_ND.shape[1])
        network.initialise(generator)
        data_ND = torch.from_numpy(vectors_ND)
        self._start_codebooks(data_ND)
        optimizer = torch.optim.Adam(network.parameters(), lr=self.config.vae_learning_rate)
        for _ in range(self.config.vae_epochs):
            used_LC = torch.zeros(self.config.levels, self.config.codes, dtype=torch.bool)
            for rows in torch.split(torch.randperm(len(data_ND), generator=generator), self.config.vae_batch):
                loss, codes_NL = network.loss(data_ND[rows])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                used_LC.scatter_(1, codes_NL.T, True)
            self._revive(data_ND, used_LC, generator)

    def assign(self, vectors_ND: Floats) -> Codes:
        """Return `[N, L]` codes of a whole catalogue, balanced where the configuration says so."""
        return residual_codes(self._latents(vectors_ND), self._codebooks(), self.config.balance_slack)

    def encode(self, vectors_ND: Floats) -> Codes:
        """Return `[N, L]` nearest codes."""
        return residual_codes(self._latents(vectors_ND), self._codebooks(), None)

    def reconstruct(self, codes_NL: Codes) -> Floats:
        """Return the `[N, D]` vectors that codes stand for."""
        with torch.no_grad():
            return self._trained().decoder(torch.from_numpy(residual_sum(codes_NL, self._codebooks()))).numpy()

    def tensors(self) -> dict[str, npt.NDArray[np.floating]]:
        """Return codebooks and weights."""
        return {name: tensor.numpy() for name, tensor in self._trained().state_dict().items()}

    def restore(self, tensors: dict[str, npt.NDArray[np.floating]]) -> None:
        """Take over codebooks and weights."""
        self.network = _Autoencoder(self.config, tensors["encoder.0.weight"].shape[1])
        self.network.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in tensors.items()})

    def _trained(self) -> _Autoencoder:
        if self.network is None:
            raise ValueError("RQ-VAE: expected a trained quantiser, got a new one; call fit or restore first")
        return self.network

    def _latents(self, vectors_ND: Floats) -> Floats:
        with torch.no_grad():
            return self._trained().encoder(torch.from_numpy(vectors_ND)).numpy()

    def _codebooks(self) -> Floats:
        return self._trained().codebooks.detach().numpy()

    @torch.no_grad()
    def _start_codebooks(self, data_ND: Tensor) -> None:
        network = self._trained()
        residual_NZ = network.encoder(data_ND).numpy()
        for level in range(self.config.levels):
            codebook_CZ = kmeans(residual_NZ, self.config.codes, self.config.iterations, self.seed + level)
            network.codebooks[level] = torch.from_numpy(codebook_CZ)
            residual_NZ = residual_NZ - codebook_CZ[residual_codes(residual_NZ, codebook_CZ[None], None)[:, 0]]

    @torch.no_grad()
    def _revive(self, data_ND: Tensor, used_LC: Tensor, generator: torch.Generator) -> None:
        """Put each unused code on the residual of a random item."""
        if used_LC.all():
            return
        network = self._trained()
        rows = torch.randint(len(data_ND), (self.config.codes,), generator=generator)
        residual_CZ = network.encoder(data_ND[rows])
        for level, used_C in enumerate(used_LC):
            nearest_C = _nearest(residual_CZ, network.codebooks[level])
            following_CZ = residual_CZ - network.codebooks[level][nearest_C]
            network.codebooks[level][~used_C] = residual_CZ[~used_C]
            residual_CZ = following_CZ


class _Autoencoder(nn.Module):
    """Encoder and decoder with one hidden layer each, and the codebooks between them."""

    def __init__(self, config: SemanticIdConfig, width: int) -> None:
        super().__init__()
        hidden, latent = config.vae_hidden, config.vae_latent
        self.encoder = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, latent))
        self.decoder = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.codebooks = nn.Parameter(torch.zeros(config.levels, config.codes, latent))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw the weights (Xavier) from `generator`."""
        for layer in [*self.encoder, *self.decoder]:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight, generator=generator)
                nn.init.zeros_(layer.bias)

    def loss(self, data_ND: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean loss of the items and their `[N, L]` codes."""
        latent_NZ = self.encoder(data_ND)
        residual_NZ, quantised_NZ = latent_NZ, torch.zeros_like(latent_NZ)
        loss, codes = torch.zeros(()), []
        for codebook_CZ in self.codebooks:
            codes.append(_nearest(residual_NZ.detach(), codebook_CZ.detach()))
            chosen_NZ = F.embedding(codes[-1], codebook_CZ)
            loss = loss + F.mse_loss(chosen_NZ, residual_NZ.detach())
            loss = loss + COMMITMENT * F.mse_loss(residual_NZ, chosen_NZ.detach())
            residual_NZ = residual_NZ - chosen_NZ.detach()
            quantised_NZ = quantised_NZ + chosen_NZ
        straight_through_NZ = latent_NZ + (quantised_NZ - latent_NZ).detach()
        return loss + F.mse_loss(self.decoder(straight_through_NZ), data_ND), torch.stack(codes, dim=1)


def _nearest(vectors_NZ: Tensor, codebook_CZ: Tensor) -> Tensor:
    """Return the index of the nearest codebook row."""
    return (codebook_CZ.square().sum(dim=1) - 2 * vectors_NZ @ codebook_CZ.T).argmin(dim=1)
