"""GenRec's training step against a Hugging Face training loop, and against the processor's rate of bfloat16 products.

Both train the same decoder from the same weights on the same users: `Qwen2ForCausalLM`, AdamW, bfloat16 autocast where
the processor has it, rows of like length together, equal places per batch. Two peers:

- the same model and loss, a row per page: merged history as `inputs_embeds`, then the page's response. Both sides
  must have the same loss in float32 before anything is timed.
- Hugging Face's strongest plain form, whole unmerged histories as causal sequences with `labels` on all places. That
  is another model (without merger, time gaps and pages), whose every place is supervised.

A supervised position is one code that a loss is taken of. Steps run in turn, on one thread, timed by the processor's
time, so that whatever else the machine does meets all. Peers run in processes of their own, whose C library hands freed
memory back as it does by default; our training loop has it kept (`models.training.memory`), and how fast the peers are
with that is measured too. Histories are as long as those of Amazon Beauty (5-core).
"""

from __future__ import annotations

import dataclasses
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Qwen2ForCausalLM

from features import schemas
from features.semantic_ids import BOS, Catalogue
from kernels.jagged import columns, concat_ranges, offsets_from_lengths, row_numbers
from models.genrec.batch import PackedBatch, pack_windows
from models.genrec.config import GenRecConfig
from models.genrec.data import SequenceData, Windows
from models.genrec.hf import to_huggingface
from models.genrec.model import GenRec
from models.genrec.source import PackedSource, deal
from models.precision import autocast_type
from models.training.config import TrainConfig
from models.training.engine import PlainEngine
from models.training.memory import keep_freed_memory

NAME = "genrec_train_vs_hf"
CONFIG = GenRecConfig(kv_heads=4, ffn_width=512, dropout=0.0, item_table=False)
"""The model of the Beauty preset; Qwen2 has no dropout after its branches, and plain lookups of items say nothing."""
TRAIN = TrainConfig()
USERS, ITEMS, CODES = 22_363, 12_101, (256, 256, 256)
SECONDS = 8.0
"""Of processor time for each side."""
CPU = torch.device("cpu")


def run(full: bool) -> list[dict[str, Any]]:
    """Measure supervised positions per second; `full` adds our step with dropout."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    keep_freed_memory()
    try:
        data, catalogue = _beauty_like()
        assert_equal_losses(data, catalogue)
        return _measure(data, catalogue, full)
    finally:
        torch.set_num_threads(threads)


def _measure(data: SequenceData, catalogue: Catalogue, full: bool) -> list[dict[str, Any]]:
    sides = {"ours": _timed(_ours(data, catalogue, CONFIG))}
    if full:
        sides["dropout"] = _timed(_ours(data, catalogue, dataclasses.replace(CONFIG, dropout=0.2)))
    sides |= {f"{peer} {memory}": _apart(peer, memory) for peer in PEERS for memory in ("default", "kept")}
    rate = _positions_per_second(sides)
    limit = _product_rate() / _operations_per_position(data, catalogue)
    kind = "bfloat16" if autocast_type(TRAIN.precision, CPU) is not None else "float32"
    dropout = f", {rate['dropout']:,.0f} with dropout 0.2" if full else ""
    note = (
        f"{CONFIG.layers} layers of {CONFIG.width}, inner width {CONFIG.ffn_width}, {CONFIG.batch_tokens} places a "
        f"batch, {kind} products, one thread, processor time; {rate['ours']:,.0f} positions/s{dropout}; the peers with "
        f"memory kept: {rate['pages kept']:,.0f} (a row per page) and {rate['histories kept']:,.0f} (whole histories)"
    )
    rows = [
        (NAME, "Qwen2ForCausalLM, the same model and loss, a row per page", rate["pages default"]),
        (f"{NAME}_histories", "Qwen2ForCausalLM on whole unmerged histories", rate["histories default"]),
        (f"{NAME}_limit", f"the {kind} products of a step at the machine's own rate", limit),
    ]
    return [
        {
            "name": name,
            "ours": rate["ours"],
            "peer": peer,
            "peer_name": peer_name,
            "unit": "supervised positions/s",
            "ratio": rate["ours"] / peer,
            "better": "higher",
            "note": note,
        }
        for name, peer_name, peer in rows
    ]


def _positions_per_second(sides: dict[str, Iterator[tuple[int, float]]]) -> dict[str, float]:
    """Let the sides take steps in turn, each until its time is used up; return each one's median step."""
    seconds: dict[str, float] = dict.fromkeys(sides, 0.0)
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for steps in sides.values():  # the first two fill caches
        next(steps), next(steps)
    while min(seconds.values()) < SECONDS:
        for name, steps in sides.items():
            if seconds[name] < SECONDS:
                step_positions, step_seconds = next(steps)
                rates[name].append(step_positions / step_seconds)
                seconds[name] += step_seconds
    for steps in sides.values():
        steps.close()
    return {name: statistics.median(values) for name, values in rates.items()}


def _timed(steps: Iterator[int]) -> Iterator[tuple[int, float]]:
    """Yield the positions of each step and the processor's seconds it took."""
    while True:
        started = time.process_time()
        positions = next(steps)
        yield positions, time.process_time() - started


def _apart(peer: str, memory: str) -> Iterator[tuple[int, float]]:
    """Let a process of its own take steps, one at a time; yield what `_timed` does."""
    command = [sys.executable, __file__, peer, memory]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            while True:
                print("step", file=process.stdin, flush=True)
                positions, seconds = process.stdout.readline().split()
                yield int(positions), float(seconds)
        finally:
            process.stdin.close()


def _serve(peer: str, memory: str) -> None:
    """Be the process of `_apart`: take a step for each line that comes."""
    torch.set_num_threads(1)
    if memory == "kept":
        keep_freed_memory()
    steps = _timed(PEERS[peer](*_beauty_like()))
    for _ in sys.stdin:
        print(*next(steps), flush=True)


def _ours(data: SequenceData, catalogue: Catalogue, config: GenRecConfig) -> Iterator[int]:
    """Take steps from source to optimiser; yield the positions of each."""
    source = PackedSource(data, catalogue, config, seed=0)
    engine = PlainEngine(_model(catalogue, config).train(), TRAIN, CPU)
    for epoch in range(1000):
        for batch in source.iterate(epoch, 0):
            engine.step(batch, 1.0, 0.5)
            yield batch.target_codes_ML.numel()


class PagePeer:
    """A row per page through Hugging Face's model; the prompts' vectors are GenRec's."""

    def __init__(self, data: SequenceData, catalogue: Catalogue) -> None:
        self.source = PackedSource(data, catalogue, CONFIG, seed=0)
        self.source.windows = one_page_windows(data, len(CODES))
        self.shell = _model(catalogue, CONFIG)
        self.decoder = _peer(self.shell)
        # one embedding: vectors in, and logits out
        self.shell.model.embed_tokens.weight = self.shell.lm_head.weight = self.decoder.lm_head.weight

    def loss(self, batch: PackedBatch) -> Tensor:
        """Return the loss of a batch of single pages, whose rows are plain causal sequences."""
        inputs = {"inputs_embeds": self.shell.embed(batch), "attention_mask": (batch.positions_BT >= 0).long()}
        logits_XV = self.decoder(**inputs).logits.flatten(0, 1)
        loss_M = torch.zeros_like(batch.target_weight_M)
        for level, (start, size) in enumerate(zip(self.shell.vocabulary.offsets, CODES, strict=False)):
            logits_MC = logits_XV[batch.target_places_ML[:, level], start : start + size].float()
            loss_M = loss_M + F.cross_entropy(logits_MC, batch.target_codes_ML[:, level], reduction="none")
        return (batch.target_weight_M * loss_M).sum() / batch.target_weight_M.sum()

    def steps(self) -> Iterator[int]:
        """Take steps; yield the positions of each."""
        outside = [value for name, value in self.shell.named_parameters() if not name.startswith(("model.", "lm_head"))]
        parameters = [*self.decoder.parameters(), *outside]
        optimizer = torch.optim.AdamW(parameters, lr=TRAIN.learning_rate, weight_decay=TRAIN.weight_decay, fused=True)
        for epoch in range(1000):
            for batch in self.source.iterate(epoch, 0):
                _peer_step(lambda batch=batch: self.loss(batch), parameters, optimizer)
                yield batch.target_codes_ML.numel()


def _history_peer(data: SequenceData, catalogue: Catalogue) -> Iterator[int]:
    """Train on `input_ids` with `labels` everywhere; yield the positions of each step."""
    decoder = _peer(_model(catalogue, CONFIG))
    optimizer = torch.optim.AdamW(
        decoder.parameters(), lr=TRAIN.learning_rate, weight_decay=TRAIN.weight_decay, fused=True
    )
    tokens_H = catalogue.vocabulary.tokens(catalogue.codes_NL[data.history_items])
    starts, items = data.history_offsets[:-1], np.diff(data.history_offsets)
    rng = np.random.default_rng(0)
    order = np.argsort(items, kind="stable")
    batches = deal(1 + items[order] * len(CODES), order, CONFIG.batch_tokens)
    while True:
        for number in rng.permutation(len(batches)):
            chosen = batches[number]
            lengths = items[chosen] * len(CODES)
            ids = np.full((len(chosen), 1 + lengths.max()), -100)
            ids[:, 0] = BOS
            ids[row_numbers(lengths), 1 + columns(lengths)] = tokens_H[
                concat_ranges(starts[chosen], items[chosen])
            ].reshape(-1)
            labels = torch.from_numpy(ids)
            inputs = {"input_ids": labels.clamp_min(0), "attention_mask": (labels >= 0).long(), "labels": labels}
            _peer_step(lambda inputs=inputs: decoder(**inputs).loss, list(decoder.parameters()), optimizer)
            yield int(lengths.sum())


def _peer_step(loss: Callable[[], Tensor], parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    dtype = autocast_type(TRAIN.precision, CPU)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        value = loss()
    value.backward()
    nn.utils.clip_grad_norm_(parameters, TRAIN.gradient_clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def assert_equal_losses(data: SequenceData, catalogue: Catalogue) -> None:
    """Raise unless packed rows and Hugging Face's row per page have the same loss, in float32, of the same pages."""
    peer = PagePeer(data, catalogue)
    source = PackedSource(data, catalogue, CONFIG, seed=0)
    ours = _model(catalogue, CONFIG).train()
    chosen = np.arange(0, len(source.windows), len(source.windows) // 40)
    pages = concat_ranges(source.windows.page_offsets[chosen], np.diff(source.windows.page_offsets)[chosen])
    packed = pack_windows(data, source.windows, chosen, catalogue, CONFIG)
    single = pack_windows(data, peer.source.windows, pages, catalogue, CONFIG)
    assert packed.target_codes_ML.equal(single.target_codes_ML)
    with torch.no_grad():
        torch.testing.assert_close(ours(packed)[0], peer.loss(single), rtol=1e-5, atol=1e-5)


def one_page_windows(data: SequenceData, levels: int) -> Windows:
    """Return a row for each page: its prompt and its response."""
    first = data.history_offsets[data.page_users]
    start = first + np.maximum(data.visible_P - CONFIG.max_history, 0)
    return Windows(
        history_start_W=start,
        history_end_W=first + data.visible_P,
        page_order=np.arange(data.pages),
        page_offsets=np.arange(data.pages + 1),
        tokens_W=1 + first + data.visible_P - start + np.diff(data.response_offsets) * levels,
    )


def _model(catalogue: Catalogue, config: GenRecConfig) -> GenRec:
    torch.manual_seed(0)
    return GenRec(config, catalogue.vocabulary, len(catalogue))


def _peer(model: GenRec) -> Qwen2ForCausalLM:
    """Return Hugging Face's model in training mode; its plain attention is faster here than its default (sdpa)."""
    decoder = to_huggingface(model).train()
    decoder.set_attn_implementation("eager")
    return decoder


def _beauty_like() -> tuple[SequenceData, Catalogue]:
    """Return users with histories as long as Beauty's, every item a page of its own, and random codes."""
    rng = np.random.default_rng(0)
    # three to fifty training items, 6.9 in the mean
    lengths = np.minimum(3 + np.floor(rng.pareto(1.75, USERS) * 3.2).astype(np.int64), CONFIG.max_history)
    events, user = int(lengths.sum()), row_numbers(lengths)
    items = np.minimum(rng.zipf(1.3, events) * 7_919 % ITEMS, ITEMS - 1)
    offsets = offsets_from_lengths(lengths)
    times = columns(lengths) * 86_400_000
    codes_NL = np.stack([rng.integers(0, size, ITEMS) for size in CODES], axis=1)
    catalogue = Catalogue([f"i{number}" for number in range(ITEMS)], codes_NL, CODES, np.ones(ITEMS))
    data = SequenceData(
        history_items=items,
        history_events=np.full(events, schemas.EVENT_CODE[schemas.PURCHASE]),
        history_times=times,
        history_offsets=offsets,
        page_users=user,
        page_times=times,
        visible_P=columns(lengths),
        response_items=items,
        response_events=np.full(events, schemas.EVENT_CODE[schemas.PURCHASE]),
        response_ties=np.arange(events),
        response_offsets=np.arange(events + 1),
        dropped={},
    )
    return data, catalogue


def _operations_per_position(data: SequenceData, catalogue: Catalogue) -> float:
    """Return the operations of a step's products per supervised position: forward, and twice that backward."""
    size = CONFIG.width // CONFIG.heads
    projections = CONFIG.width * size * 2 * (CONFIG.heads + CONFIG.kv_heads)
    per_place = CONFIG.layers * (projections + 3 * CONFIG.width * CONFIG.ffn_width)
    windows = PackedSource(data, catalogue, CONFIG, seed=0).windows
    places = int(windows.tokens_W.sum())
    attention = CONFIG.layers * 2 * CONFIG.width * int(np.square(windows.tokens_W).sum())
    merger = len(data.history_items) * len(CODES) * CONFIG.width**2
    positions = len(data.response_items) * len(CODES)
    head = positions * CONFIG.width * CODES[0]
    return 6 * (places * per_place + attention + merger + head) / positions


def _product_rate() -> float:
    """Return operations per second of a decoder's products, forward and backward, the best of several rounds."""
    dtype = autocast_type(TRAIN.precision, CPU) or torch.float32
    shapes = [(CONFIG.width, CONFIG.width), (CONFIG.width, 2 * CONFIG.ffn_width), (CONFIG.ffn_width, CONFIG.width)]
    pairs = [
        (torch.randn(CONFIG.batch_tokens, inner).to(dtype), torch.randn(outer, inner).to(dtype))
        for inner, outer in shapes
    ]
    operations = sum(2 * CONFIG.batch_tokens * inner * outer for inner, outer in shapes)
    best = 0.0
    for _ in range(50):
        started = time.process_time()
        for left, right in pairs:
            F.linear(left, right)
        best = max(best, operations / (time.process_time() - started))
    return best


PEERS = {"pages": lambda data, catalogue: PagePeer(data, catalogue).steps(), "histories": _history_peer}

if __name__ == "__main__":
    _serve(*sys.argv[1:])
