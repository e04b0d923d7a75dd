"""What beam search costs beside one forward over its prompts, and how its cost grows.

A prompt forward computes every layer at all `T` places. The beams add `(L - 1) K` places more, so that
`1 + (L - 1) K / T` prompt forwards are the cost without any overhead; the bound is 1.3 times as much. Batch 8, 50
beams, float32, one thread, processor time, both in turn.
"""

from __future__ import annotations

from typing import Any

import torch
from beam_world import (
    BEAMS,
    REQUESTS,
    clustered_sids,
    make_allowed,
    make_catalogue,
    make_model,
    make_prompts,
    processor_seconds,
)
from torch import Tensor

from features.semantic_ids import Catalogue
from kernels.allowed_ids import AllowedIds
from kernels.trie import Trie
from models.genrec.batch import PackedBatch
from models.genrec.decode import beam_search
from models.genrec.decoding import encode_block
from models.genrec.model import GenRec
from models.precision import autocast
from models.training.memory import keep_freed_memory

NAME = "beam_search_vs_prefill"
OVERHEAD = 1.3
PROMPTS = {NAME: (49, True), f"{NAME}[unmerged]": (66, False)}
ROUNDS, GROWTH_ROUNDS = 20, 4
MOST_BEAMS = (10, 50, 200, 800)
HISTORIES = (10, 50, 200)
CATALOGUES = (10**4, 10**5, 10**6, 10**7)
WIDE = (1024, 1024, 1024)
"""Codes per level that hold the largest catalogue."""
KEPT = 0.3
"""Share of the catalogue that a filter leaves."""


def run(full: bool) -> list[dict[str, Any]]:
    """Measure prompt forwards per search; `full` adds milliseconds per request as beams, history and catalogue grow."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    keep_freed_memory()
    try:
        with torch.inference_mode():
            catalogue = make_catalogue()
            results = [_compare(name, catalogue, *prompt) for name, prompt in PROMPTS.items()]
            return [*results, *(_growth() if full else [])]
    finally:
        torch.set_num_threads(threads)


def _compare(name: str, catalogue: Catalogue, history: int, merged: bool) -> dict[str, Any]:
    model, trie = make_model(catalogue, history, merged), Trie.from_sorted(catalogue.sids_SL)
    prompts = make_prompts(model, catalogue, history)
    places = prompts.tokens_BT.shape[1]
    assert_equal_states(model, prompts)
    works = {
        "prompt": lambda: forward(model, prompts),
        "search": lambda: beam_search(model, prompts, trie, BEAMS),
    }
    seconds = processor_seconds(works, ROUNDS)
    cost = seconds["search"] / seconds["prompt"]
    bound = OVERHEAD * (1 + (model.vocabulary.levels - 1) * BEAMS / places)
    return {
        "name": name,
        "ours": cost,
        "peer": bound,
        "peer_name": f"{OVERHEAD} (1 + (L - 1) K / T), T = {places}",
        "unit": "prompt forwards",
        "ratio": bound / cost,
        "better": "lower",
        "note": f"a prompt forward takes {1000 * seconds['prompt']:.1f} ms, a search {1000 * seconds['search']:.1f} ms",
    }


def forward(model: GenRec, prompts: PackedBatch) -> Tensor:
    """Return the normed hidden states of all places, with the blocks that beam search uses."""
    x_BTD = model.embed(prompts)
    rotated = model.rotation(torch.arange(x_BTD.shape[1])[None])
    for block in model.model.blocks():
        x_BTD, _ = encode_block(block, x_BTD, rotated)
    normed: Tensor = model.model.norm(x_BTD)
    return normed


def assert_equal_states(model: GenRec, prompts: PackedBatch) -> None:
    """Raise unless the prompt forward is the model's."""
    expected, _ = model.hidden(prompts)
    torch.testing.assert_close(forward(model, prompts), expected, rtol=1e-4, atol=1e-4)


def _growth() -> list[dict[str, Any]]:
    catalogue = make_catalogue()
    trie, model = Trie.from_sorted(catalogue.sids_SL), make_model(catalogue, 49)
    prompts = make_prompts(model, catalogue, 49)
    results = [_point(f"{beams} beams", model, prompts, trie, beams) for beams in MOST_BEAMS]
    results.append(_point(f"{BEAMS} beams, bfloat16", model, prompts, trie, BEAMS, precision="bfloat16"))
    for history in HISTORIES:
        longer = make_model(catalogue, history)
        results.append(_point(f"{history} items", longer, make_prompts(longer, catalogue, history), trie, BEAMS))
    wide = make_catalogue(WIDE)
    model = make_model(wide, 49)
    prompts = make_prompts(model, wide, 49)
    for size in CATALOGUES:
        trie = Trie.from_sorted(clustered_sids(size, WIDE))
        results.append(_point(f"10^{len(str(size)) - 1} IDs", model, prompts, trie, BEAMS))
        allowed = make_allowed(size, KEPT)
        results.append(_point(f"10^{len(str(size)) - 1} IDs, filtered", model, prompts, trie, BEAMS, allowed))
    return results


def _point(
    title: str,
    model: GenRec,
    prompts: PackedBatch,
    trie: Trie,
    beams: int,
    allowed: AllowedIds | None = None,
    precision: str = "float32",
) -> dict[str, Any]:
    def search() -> None:
        with autocast(precision, torch.device("cpu")):
            beam_search(model, prompts, trie, beams, allowed)

    seconds = processor_seconds({"search": search}, GROWTH_ROUNDS)["search"]
    return {
        "name": f"{NAME}[{title}]",
        "ours": 1000 * seconds / REQUESTS,
        "peer": None,
        "peer_name": None,
        "unit": "ms per request",
        "ratio": None,
        "better": "lower",
        "note": f"{trie.leaves} IDs, index of {trie.nbytes / 1e6:.1f} MB",
    }
