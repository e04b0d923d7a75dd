"""The vectorised trie step against a dictionary of prefixes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kernels.trie import NO_NODE, Trie, count_allowed, trie_topk


def random_sids(rng: np.random.Generator) -> np.ndarray:
    levels, codes = int(rng.integers(1, 5)), int(rng.integers(1, 6))
    return np.unique(rng.integers(0, codes, (int(rng.integers(1, 60)), levels)), axis=0)


def reference_step(sids, prefixes, scores, logprobs, k, allowed, renormalize):
    """One request; prefixes are tuples or None. Returns the k best (score, prefix, parent)."""
    valid = {tuple(sid[: len(prefixes[0] or ()) + 1]) for sid, keep in zip(sids.tolist(), allowed, strict=True) if keep}
    found = []
    for beam, prefix in enumerate(prefixes):
        if prefix is None:
            continue
        children = sorted(child for child in valid if child[:-1] == prefix)
        mass = 0.0
        if renormalize and children:
            mass = math.log(sum(math.exp(logprobs[beam][child[-1]]) for child in children))
        found += [(scores[beam] + logprobs[beam][child[-1]] - mass, child, beam) for child in children]
    return sorted(found, key=lambda entry: -entry[0])[:k]


@pytest.mark.parametrize("renormalize", [False, True])
@pytest.mark.parametrize("seed", range(25))
def test_steps_equal_the_reference(seed: int, renormalize: bool) -> None:
    rng = np.random.default_rng(seed)
    sids = random_sids(rng)
    leaves, levels = sids.shape
    batch, k, codes = 3, int(rng.integers(1, 9)), 6
    trie = Trie.from_sorted(sids)
    allowed = rng.random((batch, leaves)) < rng.choice([0.1, 0.6, 1.0])
    counts = count_allowed(torch.from_numpy(allowed))
    nodes, scores = torch.zeros(batch, 1, dtype=torch.int64), torch.zeros(batch, 1, dtype=torch.float64)
    prefixes: list[list[tuple[int, ...] | None]] = [[()] for _ in range(batch)]
    for level in range(levels):
        logprobs = torch.from_numpy(rng.normal(size=(batch, nodes.shape[1], codes))).log_softmax(-1)
        expected = [
            reference_step(sids, prefixes[b], scores[b].tolist(), logprobs[b].tolist(), k, allowed[b], renormalize)
            if any(p is not None for p in prefixes[b])
            else []
            for b in range(batch)
        ]
        scores, nodes, parents = trie_topk(trie, level, nodes, scores, logprobs, k, counts, renormalize)
        for b in range(batch):
            found = len(expected[b])
            np.testing.assert_allclose(scores[b, :found], [entry[0] for entry in expected[b]], rtol=1e-9, atol=1e-12)
            assert parents[b, :found].tolist() == [entry[2] for entry in expected[b]]
            assert nodes[b, found:].tolist() == [NO_NODE] * (k - found)
            assert (scores[b, found:] == -math.inf).all()
            prefixes[b] = [entry[1] for entry in expected[b]] + [None] * (k - found)
    for b in range(batch):
        assert [tuple(sids[s].tolist()) for s in nodes[b].tolist() if s >= 0] == [p for p in prefixes[b] if p]


@pytest.mark.parametrize(
    ("sids", "message"),
    [
        (np.zeros((0, 3), int), r"shape \[S >= 1, L\], got \(0, 3\)"),
        (np.array([[1, 0], [0, 1]]), "lexicographic order"),
        (np.array([[1, 0], [1, 0]]), "distinct rows"),
    ],
)
def test_wrong_ids_are_refused(sids: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trie.from_sorted(sids)
