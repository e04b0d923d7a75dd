"""The decoder's blocks, in the shape of Qwen2: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

Parameter names equal those of Hugging Face's `Qwen2ForCausalLM`, so that weights convert by name.
Legend: `B` rows, `T` places, `D` width, `N` heads, `G` key/value heads, `E` size of one head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.dropout import Dropout
from kernels.packed_attention import PreparedRows, attention_residual
from kernels.swiglu import swiglu_residual
from models.genrec.config import GenRecConfig

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines, each `[B, T, E]`."""
KeyValue = tuple[Tensor, Tensor]
"""Keys and values, each `[B, G, T, E]`."""


class RMSNorm(nn.Module):
    """Root-mean-square normalisation (Zhang & Sennrich 2019)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


def rotation(positions_BT: Tensor, head_size: int, theta: float) -> Rotation:
    """Return the rotary cosines and sines of positions (Su et al. 2021), halves laid out as Hugging Face does."""
    exponents = torch.arange(0, head_size, 2, device=positions_BT.device, dtype=torch.float32) / head_size
    angles = positions_BT[..., None].float() * theta**-exponents
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x_BNTE: Tensor, rotated: Rotation) -> Tensor:
    """Turn queries or keys by their positions."""
    cos, sin = (part[:, None].to(x_BNTE.dtype) for part in rotated)
    left, right = x_BNTE.chunk(2, dim=-1)
    return x_BNTE * cos + torch.cat([-right, left], dim=-1) * sin


def attend(q_BNTE: Tensor, k_BNTE: Tensor, v_BNTE: Tensor, mask: Tensor) -> Tensor:
    """Scaled dot-product attention where `mask` `[B, 1, T, T]` is true.

    On CPU, plain batched products: rows are tens of places long, where they train 3x faster than the fused kernel,
    whose backward pass is slow.
    """
    if q_BNTE.is_cuda:
        return F.scaled_dot_product_attention(q_BNTE, k_BNTE, v_BNTE, attn_mask=mask)
    scores_BNTT = (q_BNTE * q_BNTE.shape[-1] ** -0.5) @ k_BNTE.transpose(-1, -2)
    weights_BNTT = scores_BNTT.masked_fill(~mask, -torch.inf).softmax(dim=-1)
    return weights_BNTT.to(v_BNTE.dtype) @ v_BNTE


class Attention(nn.Module):
    """Grouped-query attention (Ainslie et al. 2023)."""

    def __init__(self, config: GenRecConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.heads, config.kv_heads
        self.head_size = config.width // config.heads
        self.q_proj = nn.Linear(config.width, self.heads * self.head_size)
        self.k_proj = nn.Linear(config.width, self.kv_heads * self.head_size)
        self.v_proj = nn.Linear(config.width, self.kv_heads * self.head_size)
        self.o_proj = nn.Linear(self.heads * self.head_size, config.width, bias=False)

    def project(self, x_BTD: Tensor, rotated: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries `[B, N, T, E]`, keys and values `[B, G, T, E]`, rotated."""
        batch, places, _ = x_BTD.shape
        q = self.q_proj(x_BTD).view(batch, places, self.heads, self.head_size).transpose(1, 2)
        k = self.k_proj(x_BTD).view(batch, places, self.kv_heads, self.head_size).transpose(1, 2)
        v = self.v_proj(x_BTD).view(batch, places, self.kv_heads, self.head_size).transpose(1, 2)
        return rotate(q, rotated), rotate(k, rotated), v

    def query_key_value(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return weight and bias of queries, of keys and of values."""
        q, k, v = self.q_proj, self.k_proj, self.v_proj
        return q.weight, q.bias, k.weight, k.bias, v.weight, v.bias

    def output(self, mixed_BNTE: Tensor) -> Tensor:
        """Join the heads and project back to the residual stream."""
        batch, _, places, _ = mixed_BNTE.shape
        joined: Tensor = self.o_proj(mixed_BNTE.transpose(1, 2).reshape(batch, places, -1))
        return joined

    def forward(self, x_BTD: Tensor, rotated: Rotation, mask: Tensor) -> tuple[Tensor, KeyValue]:
        """Attend where `mask` `[B, 1, T, T]` is true; also return the keys and values for a decoding cache."""
        q, k, v = self.project(x_BTD, rotated)
        group = self.heads // self.kv_heads
        mixed = attend(q, k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1), mask)
        return self.output(mixed), (k, v)


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020)."""

    def __init__(self, config: GenRecConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.ffn_width, bias=False)
        self.up_proj = nn.Linear(config.width, config.ffn_width, bias=False)
        self.down_proj = nn.Linear(config.ffn_width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return `down(silu(gate(x)) * up(x))`."""
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Block(nn.Module):
    """One pre-norm transformer block."""

    def __init__(self, config: GenRecConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.width, config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.width, config.norm_eps)
        self.mlp = FeedForward(config)
        self.dropout = Dropout(config.dropout)

    def forward(self, x_BTD: Tensor, rotated: Rotation, mask: Tensor) -> tuple[Tensor, KeyValue]:
        """Apply attention and feed-forward, each with its residual; also return keys and values."""
        mixed, keys_values = self.self_attn(self.input_layernorm(x_BTD), rotated, mask)
        x_BTD = x_BTD + self.dropout(mixed)
        return x_BTD + self.dropout(self.mlp(self.post_attention_layernorm(x_BTD))), keys_values

    def train_step(self, x_MD: Tensor, rows: PreparedRows, kept_X: Tensor | None = None) -> Tensor:
        """Return the same as `forward` in training on CPU, `[M, D]` in and out with `M = B T`, in half the time.

        Args:
            x_MD: The residual stream.
            rows: Positions and mask of all places.
            kept_X: Places to return, in this order; None for all.
        """
        attention, mlp, dropout = self.self_attn, self.mlp, self.dropout
        x_MD = attention_residual(
            x_MD,
            self.input_layernorm.weight,
            attention.query_key_value(),
            attention.o_proj.weight,
            rows,
            eps=self.input_layernorm.eps,
            dropped_MD=dropout.training_mask(x_MD.shape),
            scale=dropout.scale,
        )
        dropped_MD = dropout.training_mask(x_MD.shape)
        if kept_X is not None:
            x_MD = x_MD.index_select(0, kept_X)
            dropped_MD = None if dropped_MD is None else dropped_MD.index_select(0, kept_X)
        return swiglu_residual(
            x_MD,
            self.post_attention_layernorm.weight,
            mlp.gate_proj.weight,
            mlp.up_proj.weight,
            mlp.down_proj.weight,
            eps=self.post_attention_layernorm.eps,
            dropped_MD=dropped_MD,
            scale=dropout.scale,
            dtype=rows.cos_B1TE.dtype,
        )
