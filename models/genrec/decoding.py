"""GenRec's state while it decodes: the prompt encoded once, then one code per beam and level.

Legend: `B` requests, `T` prompt places, `K` beams, `J` own places of a beam, `C` codes of a level, `D` width, `G`
key/value heads, `E` size of one head.
"""

from __future__ import annotations

import dataclasses
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.prefix_attention import prefix_attention
from models.genrec.batch import PackedBatch
from models.genrec.layers import Attention, Block, KeyValue, Rotation, rotate
from models.genrec.model import GenRec


@dataclasses.dataclass(frozen=True)
class Decoding:
    """The beams between two levels.

    Attributes:
        model: In evaluation mode.
        hidden_BKD: Normed last hidden states of the beams; `K = 1` before the first code.
        prompt: Each layer's keys and values of the prompt `[B, G, T, E]`, shared by a request's beams.
        lengths_B: Prompt places of each request, its `[PAGE]` included.
        own: Each layer's keys and values of the beams' own places `[B, G, K, J, E]`; None before the first code.
        rotated: Cosines and sines of all positions that occur, each `[1, T + L, E]`.
    """

    model: GenRec
    hidden_BKD: Tensor
    prompt: list[KeyValue]
    lengths_B: Tensor
    own: list[KeyValue] | None
    rotated: Rotation

    @classmethod
    def start(cls, model: GenRec, prompts: PackedBatch) -> Decoding:
        """Encode the prompts.

        A prompt is causal and its places are its positions (see `pack_prompts`). Of the last block only the `[PAGE]`
        place is asked for, hence only its keys and values are computed everywhere.
        """
        rows, width = prompts.tokens_BT.shape
        places_B = prompts.page_places_P
        lengths_B = places_B % width + 1
        positions = torch.arange(width + model.vocabulary.levels, device=places_B.device)[None]
        rotated = model.rotation(positions)
        in_prompt = (rotated[0][:, :width], rotated[1][:, :width])
        # FBGEMM's tables, which a model has while it is trained, know no inference mode.
        with torch.inference_mode(False), torch.no_grad():
            x_BTD = model.embed(prompts)
        *lower, last = model.model.blocks()
        caches = []
        for block in lower:
            x_BTD, cache = encode_block(block, x_BTD, in_prompt)
            caches.append(cache)
        caches.append(_keys_values(last.self_attn, last.input_layernorm(x_BTD), in_prompt))
        page_B1D = x_BTD.view(rows * width, -1).index_select(0, places_B)[:, None]
        page_B1D, _ = _extend(last, page_B1D, _at(rotated, lengths_B - 1), caches[-1], lengths_B - 1, None)
        return cls(model, model.model.norm(page_B1D), caches, lengths_B, None, rotated)

    def logprobs(self, level: int) -> Tensor:
        """Return the log-softmax over the level's codes, `[B, K, C]`; float32 under autocast too, lest beams tie."""
        with torch.autocast(self.hidden_BKD.device.type, enabled=False):
            return self.model.level_logits(self.hidden_BKD.float(), level).log_softmax(dim=-1)

    def extend(self, codes_BK: Tensor, parents_BK: Tensor, level: int) -> Decoding:
        """Feed one code to every beam, after the beams' own places were re-ordered to their parents."""
        x_BKD = self.model.code_vectors(codes_BK, level)
        rotated = _at(self.rotated, self.lengths_B + level)
        grown = []
        for number, block in enumerate(self.model.model.blocks()):
            own = None if self.own is None else _reorder(self.own[number], parents_BK)
            x_BKD, cache = _extend(block, x_BKD, rotated, self.prompt[number], self.lengths_B, own)
            grown.append(cache)
        return dataclasses.replace(self, hidden_BKD=self.model.model.norm(x_BKD), own=grown)


def encode_block(block: Block, x_BTD: Tensor, rotated: Rotation) -> tuple[Tensor, KeyValue]:
    """Apply a block to whole prompts; also return keys and values."""
    attention = block.self_attn
    q, k, v = attention.project(block.input_layernorm(x_BTD), rotated)
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    x_BTD = x_BTD + attention.output(mixed)
    return x_BTD + block.mlp(block.post_attention_layernorm(x_BTD)), (k, v)


def _extend(
    block: Block, x_BKD: Tensor, rotated: Rotation, prompt: KeyValue, lengths_B: Tensor, own: KeyValue | None
) -> tuple[Tensor, KeyValue]:
    """Apply a block to one new place per beam; return its output and the beams' own keys and values grown by one."""
    q, k, v = block.self_attn.project(block.input_layernorm(x_BKD), rotated)
    new = (k[:, :, :, None], v[:, :, :, None])
    if own is not None:
        new = (torch.cat([own[0], new[0]], dim=3), torch.cat([own[1], new[1]], dim=3))
    mixed = prefix_attention(q, *prompt, lengths_B, *new)
    x_BKD = x_BKD + block.self_attn.output(mixed)
    return x_BKD + block.mlp(block.post_attention_layernorm(x_BKD)), new


def _keys_values(attention: Attention, x_BTD: Tensor, rotated: Rotation) -> KeyValue:
    batch, places, _ = x_BTD.shape
    k, v = (
        cast(Tensor, project(x_BTD)).view(batch, places, attention.kv_heads, attention.head_size).transpose(1, 2)
        for project in (attention.k_proj, attention.v_proj)
    )
    return rotate(k, rotated), v


def _at(rotated: Rotation, positions_B: Tensor) -> Rotation:
    """Pick one position per request, `[B, 1, E]` each."""
    cos, sin = (part[0, positions_B, None] for part in rotated)
    return cos, sin


def _reorder(cache: KeyValue, parents_BK: Tensor) -> KeyValue:
    """Pick each beam's parent from own keys and values `[B, G, K, J, E]`."""
    batch, groups, _, places, size = cache[0].shape
    index = parents_BK[:, None, :, None, None].expand(batch, groups, parents_BK.shape[1], places, size)
    return cache[0].gather(2, index), cache[1].gather(2, index)
