"""Conversion between GenRec's decoder and Hugging Face's `Qwen2ForCausalLM`, both ways.

The decoder, the token embedding and the output head carry over by name. What GenRec adds on the prompt side (merger,
event, time, item and user vectors) has no counterpart: feed Hugging Face the result of `GenRec.embed` as
`inputs_embeds`.

Nothing else in Pagewise needs transformers; `infra/requirements/dev.txt` pins the version the tests run with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from models.genrec.model import GenRec

if TYPE_CHECKING:
    from transformers import Qwen2ForCausalLM

POSITIONS = 4096
"""Longest input that a converted model declares; it has no weights that depend on it."""


def to_huggingface(model: GenRec) -> Qwen2ForCausalLM:
    """Return a `Qwen2ForCausalLM` with the decoder's weights; same logits for the same input vectors.

    Raises:
        ModuleNotFoundError: transformers is not installed; the message says how to get it.
    """
    try:
        from transformers import Qwen2Config, Qwen2ForCausalLM
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "conversion to Hugging Face needs transformers: pip install -r infra/requirements/dev.txt"
        ) from error
    peer = Qwen2ForCausalLM(
        Qwen2Config(**_peer_shape(model), max_position_embeddings=POSITIONS, attn_implementation="eager")
    )
    missing, unexpected = peer.load_state_dict(_shared_weights(model), strict=False)
    tied = {"lm_head.weight"} if model.config.tie_embeddings else set()
    if set(missing) - tied or unexpected:
        raise ValueError(f"Qwen2 weights: missing {sorted(missing)}, unexpected {sorted(unexpected)}")
    return peer.eval()


def load_huggingface(model: GenRec, peer: Qwen2ForCausalLM) -> None:
    """Copy the decoder's weights from a `Qwen2ForCausalLM` of the same shape and vocabulary into `model`.

    Args:
        model: Changed in place.
        peer: From `to_huggingface`, or from `Qwen2ForCausalLM.from_pretrained(folder)`.

    Raises:
        ValueError: A size or the rotary base differs; the message names it.
    """
    expected = _peer_shape(model)
    found = {name: getattr(peer.config, name, None) for name in expected}
    wrong = [
        f"{name}: expected {expected[name]}, got {value}" for name, value in found.items() if value != expected[name]
    ]
    if wrong:
        raise ValueError(
            "the Qwen2 checkpoint does not fit the GenRec configuration: " + "; ".join(wrong) + "; change genrec.*"
        )
    source = peer.state_dict()
    with torch.no_grad():
        for name, target in _shared_weights(model).items():
            target.copy_(source[name])


def _shared_weights(model: GenRec) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.state_dict().items() if name.startswith(("model.", "lm_head."))}


def _peer_shape(model: GenRec) -> dict[str, Any]:
    config = model.config
    return {
        "vocab_size": model.vocabulary.size,
        "hidden_size": config.width,
        "intermediate_size": config.ffn_width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "tie_word_embeddings": config.tie_embeddings,
        "hidden_act": "silu",
        "use_sliding_window": False,
    }
