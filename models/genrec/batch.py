"""Packed batches: many users per batch, all pages of a user in one row, built without Python loops over rows.

A row holds the prompt once and every page that answers a prefix of it::

    [BOS] [h1] [h2] [h3] [PAGE] s1 s2  [PAGE] s1 s2 s3 s1' s2'
     history (causal)     page 1, sees   page 2, sees h1..h3
                          h1 only        (its prompt is longer)

Response tokens attend to the `visible` first places of their row and to earlier places of their own page (`segment`);
their rotary positions go on from the last visible place, as if the page had been trained alone. What is known of a page
alone, its time and with `user_prefix` its user at that time, goes into its own `[PAGE]` token.

Legend: `B` rows, `T` places, `H` history items, `P` pages, `M` response items, `L` levels, `J` places per history item,
`U` width of a user vector, `V` width of an item vector, `C` candidates of the item head.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from features import schemas
from features.semantic_ids import BOS, PAD, PAGE, Catalogue
from kernels.jagged import columns, concat_ranges, offsets_from_lengths, row_numbers
from models.genrec.config import GenRecConfig
from models.genrec.data import IntArray, SequenceData, Windows, draw_candidates, gap_buckets, window_pages
from models.recommend.interface import RequestBatch

Floats = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackedBatch:
    """Model input; places are flat indices into `[B * T]`.

    Attributes:
        tokens_BT: Input token of each place; merged history places hold PAD, their vector comes from the merger.
        positions_BT: Rotary positions.
        visible_BT: How many places at the row's start a place may attend to.
        segment_BT: 0 for the prompt and padding, page number + 1 for response places.
        history_places_HJ: Where each history item stands (`J = 1` merged, else `L`).
        history_tokens_HL, history_items_H, history_events_H, history_gaps_H: What stands there.
        history_vectors_HV: The item vectors of history items, `V = 0` without `item_vectors`.
        page_places_P, page_gaps_P: Where each page starts, and the bucket of its time since the last history item.
        user_vectors_PU: The user as of each page, `U = 0` without `user_prefix`.
        target_places_ML: The place that predicts code `l` of response item `m`.
        target_codes_ML: The codes to predict, zero-based per level.
        target_weight_M: Loss weight of each response item.
        target_slot_M: Its slot on its page.
        candidates_C, candidate_vectors_CV: The items that the item head tells apart; none without one, or in prompts.
        target_candidate_M: The candidate that each response item is; empty without candidates.
    """

    tokens_BT: Tensor
    positions_BT: Tensor
    visible_BT: Tensor
    segment_BT: Tensor
    history_places_HJ: Tensor
    history_tokens_HL: Tensor
    history_items_H: Tensor
    history_events_H: Tensor
    history_gaps_H: Tensor
    history_vectors_HV: Tensor
    page_places_P: Tensor
    page_gaps_P: Tensor
    user_vectors_PU: Tensor
    target_places_ML: Tensor
    target_codes_ML: Tensor
    target_weight_M: Tensor
    target_slot_M: Tensor
    candidates_C: Tensor
    candidate_vectors_CV: Tensor
    target_candidate_M: Tensor

    @property
    def size(self) -> int:
        """Number of response items: what training throughput counts."""
        return len(self.target_weight_M)

    @property
    def tokens(self) -> int:
        """Number of places that are not padding."""
        return int((self.positions_BT >= 0).sum())

    def to(self, device: torch.device | str) -> PackedBatch:
        """Copy to a device."""
        return PackedBatch(**{f.name: getattr(self, f.name).to(device) for f in dataclasses.fields(self)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Histories:
    """The history part of a batch, jagged by row."""

    items: IntArray
    events: IntArray
    times: IntArray
    lengths: IntArray


def pack_windows(
    data: SequenceData,
    windows: Windows,
    chosen: IntArray,
    catalogue: Catalogue,
    config: GenRecConfig,
    rng: np.random.Generator | None = None,
) -> PackedBatch:
    """Build the training batch of the chosen windows; `rng` draws an item head's candidates (None: seed 0)."""
    starts, ends = windows.history_start_W[chosen], windows.history_end_W[chosen]
    source = concat_ranges(starts, ends - starts)
    histories = _Histories(
        items=data.history_items[source],
        events=data.history_events[source],
        times=data.history_times[source],
        lengths=ends - starts,
    )
    pages, page_counts = window_pages(windows, chosen)
    page_rows = row_numbers(page_counts)
    # visible_P counts from the user's first item; the window starts `skipped` items later
    skipped = starts - data.history_offsets[data.page_users[windows.page_order[windows.page_offsets[chosen]]]]
    visible = data.visible_P[pages] - skipped[page_rows]
    lengths = np.diff(data.response_offsets)[pages]
    response = concat_ranges(data.response_offsets[pages], lengths)
    return _pack(
        histories,
        page_rows=page_rows,
        page_times=data.page_times[pages],
        visible_items_P=visible,
        response_lengths_P=lengths,
        response_items=data.response_items[response],
        response_events=data.response_events[response],
        user_vectors_PU=None if data.user_vectors is None else data.user_vectors[pages],
        candidates=draw_candidates(data.response_items[response], catalogue, config, rng or np.random.default_rng(0)),
        catalogue=catalogue,
        config=config,
    )


def pack_prompts(
    requests: RequestBatch, catalogue: Catalogue, config: GenRecConfig, user_vectors_BU: Floats | None = None
) -> PackedBatch:
    """Build the prompts of requests: BOS, the newest `max_history` positive items, and an open page.

    The `[PAGE]` place of request `b` is `page_places_P[b]`; no target is set.

    Args:
        requests: `B` requests.
        catalogue: Semantic IDs.
        config: Shape of the prompts.
        user_vectors_BU: Of the requests' users, where `config.user_prefix` asks for them.

    Raises:
        ValueError: User vectors are missing or of another width.
    """
    positive = np.isin(requests.history_events, schemas.POSITIVE_CODES)
    all_rows = row_numbers(np.diff(requests.history_offsets))
    counts = np.bincount(all_rows[positive], minlength=len(requests))
    kept = np.flatnonzero(positive)
    newest = columns(counts) >= np.repeat(counts - config.max_history, counts)
    kept = kept[newest]
    lengths = np.minimum(counts, config.max_history)
    histories = _Histories(
        items=requests.history_items[kept],
        events=requests.history_events[kept].astype(np.int64),
        times=requests.history_times[kept],
        lengths=lengths,
    )
    none = np.zeros(0, dtype=np.int64)
    return _pack(
        histories,
        page_rows=np.arange(len(requests), dtype=np.int64),
        page_times=requests.times_B,
        visible_items_P=lengths,
        response_lengths_P=np.zeros(len(requests), dtype=np.int64),
        response_items=none,
        response_events=none,
        user_vectors_PU=user_vectors_BU,
        candidates=(none, none),
        catalogue=catalogue,
        config=config,
    )


def _pack(
    histories: _Histories,
    *,
    page_rows: IntArray,
    page_times: IntArray,
    visible_items_P: IntArray,
    response_lengths_P: IntArray,
    response_items: IntArray,
    response_events: IntArray,
    user_vectors_PU: Floats | None,
    candidates: tuple[IntArray, IntArray],
    catalogue: Catalogue,
    config: GenRecConfig,
) -> PackedBatch:
    levels = catalogue.vocabulary.levels
    per_item = 1 if config.merge_history else levels
    rows = len(histories.lengths)
    # An open page (no response yet) still takes one place, for its [PAGE] token.
    block_P = np.maximum(response_lengths_P * levels, 1)
    prompt_B = 1 + histories.lengths * per_item
    block_row_start = np.cumsum(block_P) - block_P
    per_row = np.bincount(page_rows, weights=block_P, minlength=rows).astype(np.int64)
    first_of_row = offsets_from_lengths(per_row)[:-1]
    width = int((prompt_B + per_row).max())
    page_places = page_rows * width + prompt_B[page_rows] + block_row_start - first_of_row[page_rows]
    visible_P = 1 + visible_items_P * per_item

    tokens = np.full(rows * width, PAD, dtype=np.int64)
    positions = np.full(rows * width, -1, dtype=np.int64)
    visible = np.ones(rows * width, dtype=np.int64)
    segment = np.zeros(rows * width, dtype=np.int64)

    row_starts = np.arange(rows, dtype=np.int64) * width
    prompt_places = concat_ranges(row_starts, prompt_B)
    positions[prompt_places] = columns(prompt_B)
    visible[prompt_places] = columns(prompt_B) + 1
    tokens[row_starts] = BOS
    history_first = concat_ranges(row_starts + 1, histories.lengths * per_item).reshape(-1, per_item)

    block_places = concat_ranges(page_places, block_P)
    positions[block_places] = columns(block_P) + np.repeat(visible_P, block_P)
    visible[block_places] = np.repeat(visible_P, block_P)
    segment[block_places] = np.repeat(np.arange(len(block_P)) + 1, block_P)

    response_tokens = catalogue.vocabulary.tokens(catalogue.codes_NL[response_items])
    target_places = concat_ranges(page_places, response_lengths_P * levels)
    tokens[target_places[1:]] = response_tokens.reshape(-1)[:-1]
    tokens[page_places] = PAGE
    candidates_C, target_candidate_M = candidates
    vectors_NV = catalogue.item_vectors if config.item_vectors else np.zeros((len(catalogue), 0), dtype=np.float32)

    return PackedBatch(
        tokens_BT=torch.from_numpy(tokens).view(rows, width),
        positions_BT=torch.from_numpy(positions).view(rows, width),
        visible_BT=torch.from_numpy(visible).view(rows, width),
        segment_BT=torch.from_numpy(segment).view(rows, width),
        history_places_HJ=torch.from_numpy(history_first),
        history_tokens_HL=torch.from_numpy(catalogue.vocabulary.tokens(catalogue.codes_NL[histories.items])),
        history_items_H=torch.from_numpy(histories.items),
        history_events_H=torch.from_numpy(histories.events),
        history_gaps_H=torch.from_numpy(_history_gaps(histories)),
        history_vectors_HV=torch.from_numpy(vectors_NV[histories.items]),
        page_places_P=torch.from_numpy(page_places),
        page_gaps_P=torch.from_numpy(_page_gaps(histories, page_rows, page_times, visible_items_P)),
        user_vectors_PU=torch.from_numpy(_user_vectors(user_vectors_PU, len(page_rows), config)),
        target_places_ML=torch.from_numpy(target_places.reshape(-1, levels)),
        target_codes_ML=torch.from_numpy(catalogue.codes_NL[response_items].astype(np.int64)),
        target_weight_M=torch.from_numpy(_weights(response_events, config)),
        target_slot_M=torch.from_numpy(columns(response_lengths_P)),
        candidates_C=torch.from_numpy(candidates_C),
        candidate_vectors_CV=torch.from_numpy(vectors_NV[candidates_C]),
        target_candidate_M=torch.from_numpy(target_candidate_M),
    )


def _user_vectors(user_vectors_PU: Floats | None, pages: int, config: GenRecConfig) -> Floats:
    expected = (pages, config.user_prefix)
    if not config.user_prefix:
        return np.zeros(expected, dtype=np.float32)
    if user_vectors_PU is None or user_vectors_PU.shape != expected:
        raise ValueError(
            f"user_prefix: expected user vectors of shape {list(expected)}, got "
            f"{'none' if user_vectors_PU is None else list(user_vectors_PU.shape)}; they come from the two-tower run "
            "that GenRec was trained with, and user_prefix is the width of its vectors"
        )
    return user_vectors_PU


def _weights(response_events: IntArray, config: GenRecConfig) -> Floats:
    impression = response_events == schemas.EVENT_CODE[schemas.IMPRESSION]
    return np.where(impression, config.impression_weight, 1.0).astype(np.float32)


def _history_gaps(histories: _Histories) -> IntArray:
    """Bucket the time since the previous history item; the first of a row has bucket 0."""
    gaps = np.zeros(len(histories.times), dtype=np.int64)
    gaps[1:] = np.diff(histories.times)
    gaps[columns(histories.lengths) == 0] = 0
    return gap_buckets(gaps)


def _page_gaps(histories: _Histories, page_rows: IntArray, page_times: IntArray, visible_items_P: IntArray) -> IntArray:
    """Bucket the time between a page and the newest item it sees; 0 where it sees none."""
    if not len(histories.times):
        return np.zeros(len(page_rows), dtype=np.int64)
    last = offsets_from_lengths(histories.lengths)[page_rows] + visible_items_P - 1
    gaps = page_times - histories.times[np.maximum(last, 0)]
    return gap_buckets(np.where(visible_items_P > 0, gaps, 0))
