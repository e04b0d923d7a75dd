"""Configuration of GenRec."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

Precision = Literal["auto", "float32", "bfloat16"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenRecConfig:
    """Shape of the decoder, of its prompts and of its targets."""

    layers: int = 3
    """Transformer blocks."""
    width: int = 128
    """Size of the residual stream; a multiple of `heads`."""
    heads: int = 4
    """Attention heads."""
    kv_heads: int = 2
    """Key/value heads (grouped-query attention); divides `heads`."""
    ffn_width: int = 384
    """Inner size of the SwiGLU feed-forward."""
    dropout: float = 0.1
    """Dropout on embeddings and on each block's two outputs, training only."""
    rope_theta: float = 10_000.0
    """Base of the rotary position frequencies."""
    norm_eps: float = 1e-6
    """Added to the mean square in RMSNorm."""
    tie_embeddings: bool = True
    """Use the input embedding of a code as its output vector too."""
    merge_history: bool = True
    """Token Merger: one prompt token per history item instead of one per semantic-ID level."""
    item_table: bool = True
    """Add a learned vector per item id to its prompt token, from a large embedding table (unseen items: zero)."""
    user_prefix: int = 0
    """Width of the two-tower model's user vector, which every page starts from beside its history; 0 = without. GenRec
    then works only together with the two-tower run it was trained with."""
    item_vectors: bool = False
    """Add a projection of each item's vector, the frozen one its semantic ID was made of, to its prompt token and to
    its key in the item head; items without training events have one too."""
    item_head: float = 0.0
    """Weight of a second loss: the softmax over whole items at the place that predicts an item's first code. Retrieval
    then adds the item's log-probability to its semantic ID's, see `DecodeConfig.item_weight`. 0 = without item head."""
    item_negatives: int = 16_384
    """Items drawn for a batch to be told apart by the item head, besides its targets; catalogues of at most so many
    take part whole."""
    max_history: int = 50
    """Newest history items kept in the prompt; of a longer history the older ones are not read."""
    objective: str = "page"
    """`page`: a response is a whole page, best items first (page-wise NTP); `point`: one response per positive item."""
    page_items: int = 10
    """Items of a page kept in its response, positives first."""
    impression_weight: float = 0.1
    """Loss weight of items that were only shown; 0 leaves them out of the response."""
    label_smoothing: float = 0.0
    """Share of the target probability spread evenly over the level's codes."""
    batch_tokens: int = 4096
    """Places of a training batch per process, padding included; fewer make more and noisier steps."""
    pretrained: str | None = None
    """Folder of a Qwen2 or Qwen2.5 checkpoint (`config.json` and safetensors files) whose blocks training starts from;
    `layers`, `width`, `heads`, `kv_heads`, `ffn_width`, `rope_theta` and `norm_eps` must be the checkpoint's."""
    hold_pretrained: float = 0.2
    """Share of the run in which a checkpoint's weights stay as they are, while all that is new settles: tokens, head,
    merger, tables."""

    def __post_init__(self) -> None:
        mistakes = [
            f"{name}: expected at least {least}, got {getattr(self, name)}"
            for name, least in _AT_LEAST.items()
            if getattr(self, name) < least
        ]
        if self.heads >= 1 and self.width % (2 * self.heads):
            mistakes.append(f"width: expected a multiple of 2 x heads = {2 * self.heads}, got {self.width}")
        if self.kv_heads >= 1 and self.heads % self.kv_heads:
            mistakes.append(f"kv_heads: expected a divisor of heads = {self.heads}, got {self.kv_heads}")
        for name in ("dropout", "label_smoothing", "hold_pretrained"):
            if not 0 <= getattr(self, name) < 1:
                mistakes.append(f"{name}: expected 0 <= {name} < 1, got {getattr(self, name)}")
        if not 0 <= self.impression_weight <= 1:
            mistakes.append(f"impression_weight: expected 0 to 1, got {self.impression_weight}")
        if not self.item_head >= 0:
            mistakes.append(f"item_head: expected at least 0, got {self.item_head}")
        elif self.item_head and not (self.item_table or self.item_vectors):
            mistakes.append("item_head: expected item_table or item_vectors, of which keys are made, got neither")
        if self.objective not in ("page", "point"):
            mistakes.append(f"objective: expected 'page' or 'point', got {self.objective!r}")
        if mistakes:
            raise ValueError("; ".join(mistakes))


_AT_LEAST = {
    "layers": 1,
    "width": 2,
    "heads": 1,
    "kv_heads": 1,
    "ffn_width": 1,
    "user_prefix": 0,
    "item_negatives": 1,
    "max_history": 1,
    "page_items": 1,
    "batch_tokens": 1,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """Beam search over the semantic IDs."""

    beams: int = 50
    """Beams kept at every level; at least the number of candidates asked for is used. Cost grows in proportion."""
    batch_size: int = 256
    """Requests decoded together; bounds memory."""
    item_weight: float = 1.0
    """Weight of an item's log-probability beside its semantic ID's, for a GenRec with an item head."""
    item_candidates: int = 100
    """Items that the item head proposes besides those the beams found; their IDs count as the worst beam."""
    renormalize: bool = False
    """Divide each code's probability by that of all codes which lead to an allowed ID. Without, a prefix of which much
    probability leads nowhere loses it for good."""
    precision: Precision = "float32"
    """Of matrix products. bfloat16 takes less than half the processor time; of a top 10 on Beauty it changed 1 item in
    140, and every fourth one's order. `auto`: bfloat16 where the processor multiplies it natively, else float32."""

    def __post_init__(self) -> None:
        mistakes = [
            f"{name}: expected at least {least}, got {getattr(self, name)}"
            for name, least in (("beams", 1), ("batch_size", 1), ("item_weight", 0), ("item_candidates", 0))
            if not getattr(self, name) >= least
        ]
        if self.precision not in (precisions := get_args(Precision)):
            mistakes.append(f"precision: expected one of {', '.join(precisions)}, got {self.precision!r}")
        if mistakes:
            raise ValueError("; ".join(mistakes))
