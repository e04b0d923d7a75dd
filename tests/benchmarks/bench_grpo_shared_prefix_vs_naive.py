"""Forward and backward of the policy gradient: responses that share their prompt's row against one row per response.

Weights, prompts, responses, rewards and loss are the same objects on both sides; log-probabilities and the gradients of
all parameters must be equal before anything is timed. The peer goes through its rows request by request, 16 rows at a
time, which is faster than all rows at once because they stay in the processor's cache; so it is no straw man. Both are
timed in turn, on one thread and by the processor's time, so that whatever else the machine does meets both.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from features.schemas import CLICK, EVENT_CODE
from features.semantic_ids import Catalogue
from models.alignment.config import AlignConfig
from models.alignment.objective import grpo_sr_loss
from models.alignment.shared_prefix import naive_response_logprobs, response_logprobs
from models.genrec.batch import PackedBatch, pack_prompts
from models.genrec.config import GenRecConfig
from models.genrec.model import GenRec
from models.recommend.interface import RequestBatch

NAME = "grpo_shared_prefix_vs_naive"
ITEMS, CODES, LEVELS = 12_000, 256, 3
REQUESTS = 8
REPEATS = 3
RL_ONLY = AlignConfig(nll_weight=0.0)

Logprobs = Callable[[GenRec, PackedBatch, Tensor], Tensor]


def run(full: bool) -> list[dict[str, Any]]:
    """Measure prompts of 50 and 256 tokens with 16 responses; `full`: also other groups and prompts."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        cases = [(50, 16), (256, 16)]
        if full:
            cases += [(50, 4), (50, 64), (50, 256), (100, 16), (512, 16)]
        return [_measure(tokens, group) for tokens, group in cases]
    finally:
        torch.set_num_threads(threads)


class Work:
    """One batch of groups with its rewards.

    Args:
        tokens: Places of every prompt, BOS and the open page included.
        group: Responses per request.
    """

    def __init__(self, tokens: int, group: int) -> None:
        rng = np.random.default_rng(0)
        codes_NL = rng.integers(0, CODES, (ITEMS, LEVELS))
        catalogue = Catalogue([str(number) for number in range(ITEMS)], codes_NL, (CODES,) * LEVELS)
        config = GenRecConfig(layers=3, width=128, ffn_width=512, dropout=0.0, max_history=tokens - 2)
        torch.manual_seed(0)
        self.model = GenRec(config, catalogue.vocabulary, ITEMS)
        requests = _requests(rng, tokens - 2)
        self.together = pack_prompts(requests, catalogue, config)
        self.apart = [pack_prompts(requests.take(np.array([b])), catalogue, config) for b in range(REQUESTS)]
        self.codes_BGL = torch.from_numpy(codes_NL[rng.integers(0, ITEMS, (REQUESTS, group))])
        self.reward_BG = torch.from_numpy(rng.random((REQUESTS, group), dtype=np.float32))

    def shared(self) -> Tensor:
        """Go forward and backward with all requests together, and return the log-probabilities."""
        return self._step(response_logprobs, self.together, slice(None))

    def naive(self) -> Tensor:
        """Go forward and backward with one row per response, request by request."""
        found = [self._step(naive_response_logprobs, one, slice(b, b + 1)) for b, one in enumerate(self.apart)]
        return torch.cat(found)

    def gradients(self) -> dict[str, Tensor]:
        """Return the gradients, which start from zero again."""
        found = {name: p.grad.to_dense() for name, p in self.model.named_parameters() if p.grad is not None}
        self.model.zero_grad()
        return found

    def _step(self, logprobs: Logprobs, prompts: PackedBatch, rows: slice) -> Tensor:
        logprobs_BGL = logprobs(self.model, prompts, self.codes_BGL[rows])
        count = len(logprobs_BGL)
        all_BG = torch.ones(logprobs_BGL.shape[:2], dtype=torch.bool)
        loss, _ = grpo_sr_loss(
            logprobs_BGL, self.reward_BG[rows], all_BG, torch.zeros(count), torch.zeros(count).bool(), RL_ONLY
        )
        (loss * count / REQUESTS).backward()
        return logprobs_BGL.detach()


def _measure(tokens: int, group: int) -> dict[str, Any]:
    work = Work(tokens, group)
    assert_equal(work)
    best = {"ours": float("inf"), "peer": float("inf")}
    for _ in range(REPEATS):
        for name, step in (("ours", work.shared), ("peer", work.naive)):
            started = time.process_time()
            step()
            best[name] = min(best[name], time.process_time() - started)
            work.model.zero_grad()
    limit = group * (tokens + LEVELS - 1) / (tokens + group * (LEVELS - 1))
    return {
        "name": f"{NAME}, {tokens} tokens, G = {group} (places: {limit:.1f}x)",
        "ours": 1e3 * best["ours"] / REQUESTS,
        "peer": 1e3 * best["peer"] / REQUESTS,
        "peer_name": f"one row per response, {group} rows at a time",
        "unit": "ms per group",
        "ratio": best["peer"] / best["ours"],
        "better": "lower",
        "note": (
            f"forward and backward of the policy gradient, {REQUESTS} requests, 3 layers x 128, ffn 512, {LEVELS} "
            f"levels of {CODES} codes, float32, processor time of one thread, best of {REPEATS}; the ratio of places "
            f"is {limit:.1f}, attention saves more than that since it grows with their square"
        ),
    }


def assert_equal(work: Work) -> None:
    """Raise unless both sides have the same log-probabilities and gradients."""
    ours, our_gradients = work.shared(), work.gradients()
    peer, peer_gradients = work.naive(), work.gradients()
    torch.testing.assert_close(ours, peer, rtol=1e-4, atol=1e-4)
    assert our_gradients.keys() == peer_gradients.keys()
    for name, gradient in peer_gradients.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(our_gradients[name], gradient, rtol=1e-3, atol=1e-4 * scale)


def _requests(rng: np.random.Generator, length: int) -> RequestBatch:
    total = REQUESTS * length
    return RequestBatch(
        user_ids=[f"u{b}" for b in range(REQUESTS)],
        times_B=np.full(REQUESTS, 10**12, dtype=np.int64),
        history_items=rng.integers(0, ITEMS, total),
        history_events=np.full(total, EVENT_CODE[CLICK], dtype=np.int8),
        history_times=np.sort(rng.integers(0, 10**12, (REQUESTS, length)), axis=1).ravel(),
        history_offsets=np.arange(REQUESTS + 1, dtype=np.int64) * length,
        excluded_items=np.zeros(0, dtype=np.int64),
        excluded_offsets=np.zeros(REQUESTS + 1, dtype=np.int64),
    )
