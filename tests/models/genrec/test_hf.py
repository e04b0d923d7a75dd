"""Hugging Face's Qwen2 as an oracle: same logits, same greedy continuations, same constrained beams."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from genrec_cases import make_catalogue, make_model, make_requests

from kernels.trie import Trie
from models.genrec.batch import pack_prompts
from models.genrec.decode import beam_search
from models.genrec.hf import load_huggingface, to_huggingface
from models.genrec.model import GenRec

transformers = pytest.importorskip("transformers")


class LevelMask:
    """Hugging Face normalises over the whole vocabulary; GenRec over one level: hide the others before its softmax."""

    def __init__(self, peer: torch.nn.Module, model: GenRec) -> None:
        self.inner = peer.forward
        self.vocabulary = model.vocabulary
        self.step = 0

    def __call__(self, *args: object, **kwargs: object) -> object:
        output = self.inner(*args, **kwargs)
        level = self.step
        self.step += 1
        start = self.vocabulary.offsets[level]
        hidden = torch.full_like(output.logits, -1e9)
        stop = start + self.vocabulary.codes_per_level[level]
        hidden[..., start:stop] = output.logits[..., start:stop]
        output.logits = hidden
        return output


def prefix_function(model: GenRec, sids: np.ndarray) -> object:
    tokens = model.vocabulary.tokens(sids)

    def allowed(_batch: int, generated: torch.Tensor) -> list[int]:
        prefix = generated[-_depth(generated) :].tolist() if _depth(generated) else []
        rows = tokens[(tokens[:, : len(prefix)] == prefix).all(axis=1)] if prefix else tokens
        return sorted(set(rows[:, len(prefix)].tolist()))

    def _depth(generated: torch.Tensor) -> int:
        return int((generated >= model.vocabulary.offsets[0]).sum())

    return allowed


@pytest.mark.parametrize("tie", [True, False])
def test_logits_equal(tie: bool) -> None:
    rng = np.random.default_rng(0)
    catalogue = make_catalogue(rng)
    model = make_model(catalogue, tie_embeddings=tie)
    peer = to_huggingface(model)
    prompts = pack_prompts(make_requests(rng, catalogue, [5]), catalogue, model.config)
    with torch.no_grad():
        hidden, _ = model.hidden(prompts)
        expected = peer(inputs_embeds=model.embed(prompts)).logits
    torch.testing.assert_close(model.lm_head(hidden), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("beams", "renormalize"), [(1, False), (6, False), (1, True), (6, True)])
def test_beams_equal_generate(beams: int, renormalize: bool) -> None:
    """With one beam this is the greedy continuation."""
    rng = np.random.default_rng(beams)
    catalogue = make_catalogue(rng)
    model = make_model(catalogue)
    prompts = pack_prompts(make_requests(rng, catalogue, [5]), catalogue, model.config)
    found = beam_search(model, prompts, Trie.from_sorted(catalogue.sids_SL), beams, renormalize=renormalize)

    peer = to_huggingface(model)
    peer.forward = LevelMask(peer, model)
    with torch.no_grad():
        output = peer.generate(
            inputs_embeds=model.embed(prompts),
            attention_mask=torch.ones(1, prompts.tokens_BT.shape[1], dtype=torch.int64),
            num_beams=beams,
            num_return_sequences=beams,
            max_new_tokens=3,
            min_new_tokens=3,
            do_sample=False,
            length_penalty=0.0,
            prefix_allowed_tokens_fn=prefix_function(model, catalogue.sids_SL),
            renormalize_logits=renormalize,
            return_dict_in_generate=True,
            output_scores=True,
            eos_token_id=None,
            pad_token_id=0,
        )
    sequences = output.sequences[:, -3:] - torch.tensor(model.vocabulary.offsets)
    expected = torch.from_numpy(catalogue.sids_SL).long()[found.sids_BK[0]]
    assert sequences.tolist() == expected.tolist()
    if beams > 1:
        torch.testing.assert_close(output.sequences_scores, found.scores_BK[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tie", [True, False])
def test_weights_load_back_from_a_folder(tie: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    catalogue = make_catalogue(rng)
    model, other = (make_model(catalogue, seed=seed, tie_embeddings=tie) for seed in (1, 2))
    to_huggingface(model).save_pretrained(tmp_path)
    load_huggingface(other, transformers.Qwen2ForCausalLM.from_pretrained(tmp_path))
    assert torch.equal(model.lm_head.weight, other.lm_head.weight)
    prompts = pack_prompts(make_requests(rng, catalogue, [3]), catalogue, model.config)
    tokens = prompts.tokens_BT
    with torch.no_grad():
        x = model.model.embed_tokens(tokens)
        torch.testing.assert_close(other.model.embed_tokens(tokens), x)
        rotated = model.rotation(prompts.positions_BT)
        mask = torch.ones(1, 1, tokens.shape[1], tokens.shape[1], dtype=torch.bool).tril()
        for ours, theirs in zip(model.model.blocks(), other.model.blocks(), strict=True):
            torch.testing.assert_close(ours(x, rotated, mask)[0], theirs(x, rotated, mask)[0])


def test_a_checkpoint_of_another_shape_is_refused() -> None:
    catalogue = make_catalogue(np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"intermediate_size: expected 32, got 24; change genrec"):
        load_huggingface(make_model(catalogue, ffn_width=32), to_huggingface(make_model(catalogue)))


def test_a_checkpoint_with_another_rotary_base_is_refused() -> None:
    """Its weights would fit, and mean something else."""
    catalogue = make_catalogue(np.random.default_rng(0))
    peer = to_huggingface(make_model(catalogue, rope_theta=1_000_000.0))
    with pytest.raises(ValueError, match=r"rope_parameters: expected .*10000\.0.*, got .*1000000\.0"):
        load_huggingface(make_model(catalogue), peer)


def test_without_transformers_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install -r infra/requirements/dev\.txt"):
        to_huggingface(make_model(make_catalogue(np.random.default_rng(0))))
