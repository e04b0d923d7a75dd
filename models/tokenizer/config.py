"""Configuration of the semantic IDs."""

from __future__ import annotations

import dataclasses

RESIDUAL_KMEANS, RQ_VAE = "residual_kmeans", "rq_vae"
TFIDF, SENTENCE_TRANSFORMERS, VECTORS = "tfidf", "sentence_transformers", "vectors"
COOCCURRENCE, TWO_TOWER = "cooccurrence", "two_tower"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SemanticIdConfig:
    """From what vectors, by which quantiser and of which shape semantic IDs are made, and when they are healthy."""

    levels: int = 3
    """Codes per semantic ID, coarse to fine (the extra level not counted)."""
    codes: int = 256
    """Size of each level's codebook; at most the number of items."""
    extra_level: bool = False
    """Append a level which numbers the items of one semantic ID 0, 1, 2, ..., so that every item's ID is its own."""
    quantizer: str = RESIDUAL_KMEANS
    """`residual_kmeans`, or `rq_vae`: the same residual codebooks behind a learned encoder and decoder."""
    balance_slack: float | None = 1.05
    """A code of any level holds at most ceil(slack x items / codes) items; null gives each item its nearest code.
    Balancing holds all distances of a level in memory, 5 bytes x items x codes: 5 GB for a million items and 1024 codes
    (a catalogue too large for that needs null, which goes through the items in pieces)."""
    iterations: int = 25
    """Lloyd iterations of each level's k-means."""
    balance_rounds: int = 10
    """Rounds of balanced assignment and re-centring after the k-means; without effect where `balance_slack` is null."""
    source: str = TFIDF
    """Content vectors: `tfidf` (built in), `sentence_transformers` (a local model folder) or `vectors` (Parquet)."""
    source_path: str | None = None
    """The model folder of `sentence_transformers`, or the Parquet file of `vectors` (columns item_id, vector)."""
    max_vocabulary: int = 50_000
    """Most frequent terms kept by `tfidf`."""
    text_dimensions: int = 128
    """Size of the content vector of `tfidf` (rank of the truncated SVD)."""
    collaborative: str = COOCCURRENCE
    """The collaborative vector that is put beside the content vector: `cooccurrence` in training sequences, or
    `two_tower`, the item vector of the newest two-tower run."""
    collaborative_dimensions: int = 64
    """Size of the co-occurrence vector; 0 = no collaborative part. Two-tower vectors have the size of their model."""
    window: int = 5
    """Items of one user at most this many places apart co-occur, with weight 1 / distance."""
    content_weight: float = 1.0
    """Length of the content part of an item's vector."""
    collaborative_weight: float = 1.0
    """Length of the collaborative part of an item's vector."""
    vae_latent: int = 32
    """RQ-VAE: size of the quantised latent vector."""
    vae_hidden: int = 256
    """RQ-VAE: width of the hidden layer of encoder and decoder."""
    vae_epochs: int = 60
    """RQ-VAE: passes over the items."""
    vae_batch: int = 256
    """RQ-VAE: items per step."""
    vae_learning_rate: float = 1e-3
    """RQ-VAE: step size of Adam."""
    max_collision_rate: float = 0.3
    """Gate: largest share of items that share their ID (without the extra level) with another item."""
    min_code_share: float = 0.8
    """Gate: smallest share of a level's codes that are in use."""
    min_perplexity: float = 0.25
    """Gate: smallest 2^entropy of a level, divided by `codes`."""

    @property
    def codes_per_level(self) -> tuple[int, ...]:
        """Codebook sizes of the whole ID, the extra level included."""
        return (self.codes,) * (self.levels + self.extra_level)

    def __post_init__(self) -> None:
        mistakes = [
            f"{name}: expected at least {least}, got {getattr(self, name)}"
            for name, least in _AT_LEAST.items()
            if getattr(self, name) < least
        ]
        mistakes += [
            f"{name}: expected one of {', '.join(known)}, got {getattr(self, name)!r}"
            for name, known in _CHOICES.items()
            if getattr(self, name) not in known
        ]
        mistakes += [
            f"{name}: expected 0 to 1, got {getattr(self, name)}"
            for name in ("max_collision_rate", "min_code_share", "min_perplexity")
            if not 0 <= getattr(self, name) <= 1
        ]
        if self.balance_slack is not None and self.balance_slack < 1:
            mistakes.append(f"balance_slack: expected at least 1 (or null), got {self.balance_slack}")
        if self.content_weight < 0 or self.collaborative_weight < 0:
            mistakes.append(
                f"content_weight, collaborative_weight: expected no negative number, got {self.content_weight} and "
                f"{self.collaborative_weight}"
            )
        elif self.content_weight + self.collaborative_weight * (self.collaborative_dimensions > 0) == 0:
            mistakes.append("content_weight: expected more than 0 where there is no collaborative part, got 0")
        if self.vae_learning_rate <= 0:
            mistakes.append(f"vae_learning_rate: expected more than 0, got {self.vae_learning_rate}")
        if (self.source == TFIDF) != (self.source_path is None):
            mistakes.append(
                f"source_path: expected {'none' if self.source == TFIDF else 'a path'} for source {self.source!r}, "
                f"got {self.source_path!r}"
            )
        if mistakes:
            raise ValueError("; ".join(mistakes))


_AT_LEAST = {
    "levels": 1,
    "codes": 2,
    "iterations": 1,
    "balance_rounds": 0,
    "max_vocabulary": 1,
    "text_dimensions": 1,
    "collaborative_dimensions": 0,
    "window": 1,
    "vae_latent": 1,
    "vae_hidden": 1,
    "vae_epochs": 1,
    "vae_batch": 1,
}
_CHOICES = {
    "quantizer": (RESIDUAL_KMEANS, RQ_VAE),
    "source": (TFIDF, SENTENCE_TRANSFORMERS, VECTORS),
    "collaborative": (COOCCURRENCE, TWO_TOWER),
}
