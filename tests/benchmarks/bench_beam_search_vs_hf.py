"""Beam search against Hugging Face's `generate` with beams and a prefix function: same weights, catalogue and beams.

Batch 8, 50 beams, float32, one thread, processor time. Both get the prompts' input vectors from `GenRec.embed`, within
the time; the peer attends through `scaled_dot_product_attention`, which is its faster choice, and looks prefixes up in
a dictionary made before. Before anything is timed, both must return the same 50 IDs with the same scores; neighbours
whose scores differ by less than 1e-4 may have swapped.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers
from beam_world import BEAMS, REQUESTS, make_catalogue, make_model, make_prompts, processor_seconds
from torch import Tensor
from transformers import Qwen2ForCausalLM

from features.semantic_ids import Catalogue
from kernels.trie import Trie
from models.genrec.batch import PackedBatch
from models.genrec.decode import beam_search
from models.genrec.hf import to_huggingface
from models.genrec.model import GenRec
from models.training.memory import keep_freed_memory

NAME = "beam_search_vs_hf"
PROMPTS = {NAME: (49, True), f"{NAME}[unmerged]": (66, False)}
"""History items, and whether they are merged: prompts of 51 and of 200 places."""
ROUNDS = 3
TIE = 1e-4


def run(full: bool) -> list[dict[str, Any]]:
    """Measure requests per second of both."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    keep_freed_memory()
    try:
        with torch.inference_mode():
            catalogue = make_catalogue()
            return [_compare(name, catalogue, *prompt) for name, prompt in PROMPTS.items()]
    finally:
        torch.set_num_threads(threads)


def _compare(name: str, catalogue: Catalogue, history: int, merged: bool) -> dict[str, Any]:
    model = make_model(catalogue, history, merged)
    prompts, trie, peer = (
        make_prompts(model, catalogue, history),
        Trie.from_sorted(catalogue.sids_SL),
        Peer(model, catalogue),
    )
    assert_equal(model, catalogue, prompts, trie, peer)
    works = {"ours": lambda: beam_search(model, prompts, trie, BEAMS), "peer": lambda: peer.generate(prompts)}
    seconds = processor_seconds(works, ROUNDS)
    return {
        "name": name,
        "ours": REQUESTS / seconds["ours"],
        "peer": REQUESTS / seconds["peer"],
        "peer_name": f"transformers {transformers.__version__} generate(num_beams={BEAMS}, prefix_allowed_tokens_fn)",
        "unit": "requests/s",
        "ratio": seconds["peer"] / seconds["ours"],
        "better": "higher",
        "note": f"prompt of {prompts.tokens_BT.shape[1]} places, batch {REQUESTS}, one thread, processor time",
    }


class Peer:
    """Hugging Face's model with the same weights; its softmax sees one level's codes, as GenRec's does."""

    def __init__(self, model: GenRec, catalogue: Catalogue) -> None:
        self.model = model
        self.peer: Qwen2ForCausalLM = to_huggingface(model)
        self.peer.set_attn_implementation("sdpa")
        self.inner, self.peer.forward = self.peer.forward, self._forward
        self.children: dict[tuple[int, ...], list[int]] = {}
        for tokens in model.vocabulary.tokens(catalogue.sids_SL).tolist():
            for level, token in enumerate(tokens):
                known = self.children.setdefault(tuple(tokens[:level]), [])
                if not known or known[-1] != token:  # IDs are sorted
                    known.append(token)

    def generate(self, prompts: PackedBatch) -> tuple[Tensor, Tensor]:
        """Return codes `[B, K, L]` and scores `[B, K]`."""
        self.level = 0
        levels = self.model.vocabulary.levels
        output = self.peer.generate(
            inputs_embeds=self.model.embed(prompts),
            attention_mask=torch.ones_like(prompts.tokens_BT),
            num_beams=BEAMS,
            num_return_sequences=BEAMS,
            max_new_tokens=levels,
            min_new_tokens=levels,
            do_sample=False,
            length_penalty=0.0,
            prefix_allowed_tokens_fn=lambda _, tokens: self.children[tuple(tokens.tolist())],
            return_dict_in_generate=True,
            output_scores=True,
            eos_token_id=None,
            pad_token_id=0,
        )
        codes = output.sequences[:, -levels:] - torch.tensor(self.model.vocabulary.offsets)
        return codes.view(-1, BEAMS, levels), output.sequences_scores.view(-1, BEAMS)

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self.inner(*args, **kwargs)
        start = self.model.vocabulary.offsets[self.level]
        stop = start + self.model.vocabulary.codes_per_level[self.level]
        self.level += 1
        hidden = torch.full_like(output.logits, -1e9)
        hidden[..., start:stop] = output.logits[..., start:stop]
        output.logits = hidden
        return output


def assert_equal(model: GenRec, catalogue: Catalogue, prompts: PackedBatch, trie: Trie, peer: Peer) -> None:
    """Raise unless both return the same IDs and scores, up to swaps of what ties."""
    found = beam_search(model, prompts, trie, BEAMS)
    codes_BKL, scores_BK = peer.generate(prompts)
    torch.testing.assert_close(found.scores_BK, scores_BK, rtol=0, atol=TIE)
    ours_BKL = torch.from_numpy(catalogue.sids_SL).long()[found.sids_BK]
    for request, beam in np.argwhere((ours_BKL != codes_BKL).any(dim=-1).numpy()):
        twins = (codes_BKL[request] == ours_BKL[request, beam]).all(dim=-1)
        cut = scores_BK[request, -1] + TIE  # of those that tie with the last, either may keep any
        score = found.scores_BK[request, beam]
        assert score < cut or ((scores_BK[request][twins] - score).abs() < TIE).any()
