"""Log-probabilities of many responses to one prompt, encoding the prompt once.

GRPO asks for `G` responses of `L` tokens to the same prompt of `T` tokens. One row per response costs `G (T + L - 1)`
places; here a request costs `T + G (L - 1)`: the open page's `[PAGE]` place predicts the first code of all responses.

Legend: `B` requests, `R` responses of each, `L` levels, `T` prompt places, `C` codes of a level, `D` width.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from models.genrec.batch import PackedBatch
from models.genrec.model import GenRec


def response_logprobs(model: GenRec, prompts: PackedBatch, codes_BRL: Tensor) -> Tensor:
    """Return the log-probability of every code of every response, given its prompt and its own earlier codes.

    Values and gradients equal `naive_response_logprobs`.

    Args:
        model: The policy, in either mode.
        prompts: `B` open pages, from `pack_prompts`.
        codes_BRL: Zero-based codes of the responses, int64; responses of one request may be equal.

    Returns:
        `[B, R, L]`, float32 (float64 for a float64 model): log-softmax over the codes of each level.

    Raises:
        ValueError: Prompts and responses do not belong together.
    """
    return naive_response_logprobs(model, prompts, codes_BRL)


def naive_response_logprobs(model: GenRec, prompts: PackedBatch, codes_BRL: Tensor) -> Tensor:
    """Return what `response_logprobs` does, by one row of prompt and response for every response.

    Raises:
        ValueError: Prompts and responses do not belong together.
    """
    _check(model, prompts, codes_BRL)
    _, responses, levels = codes_BRL.shape
    codes_QL = codes_BRL.flatten(0, 1)
    rows = _append(_repeat(prompts, responses), _tokens(model, codes_QL))
    hidden_BTD, _ = model.hidden(rows)
    places_QL = rows.page_places_P[:, None] + torch.arange(levels, device=codes_QL.device)
    hidden_QLD = hidden_BTD.flatten(0, 1)[places_QL]
    logprobs = [_gather(model.level_logits(hidden_QLD[:, l], l), codes_QL[:, l]) for l in range(levels)]  # noqa: E741
    return torch.stack(logprobs, dim=-1).view_as(codes_BRL)


def _check(model: GenRec, prompts: PackedBatch, codes_BRL: Tensor) -> None:
    rows, levels = len(prompts.tokens_BT), model.vocabulary.levels
    if len(prompts.page_places_P) != rows or len(prompts.target_places_ML):
        raise ValueError(
            f"prompts: expected one open page per row, got {len(prompts.page_places_P)} pages with "
            f"{len(prompts.target_places_ML)} targets in {rows} rows; build them with pack_prompts"
        )
    if codes_BRL.ndim != 3 or codes_BRL.shape[0] != rows or codes_BRL.shape[1] < 1 or codes_BRL.shape[2] != levels:
        raise ValueError(f"codes: expected shape [{rows}, R >= 1, {levels}], got {list(codes_BRL.shape)}")


def _tokens(model: GenRec, codes_QL: Tensor) -> Tensor:
    """Return the input tokens of responses without their last, `[Q, L - 1]`."""
    offsets = torch.tensor(model.vocabulary.offsets, device=codes_QL.device)
    return (codes_QL + offsets)[:, :-1]


def _gather(logits_C: Tensor, codes: Tensor) -> Tensor:
    """Return the log-softmax of `[..., C]` at one code each."""
    logits_C = logits_C if logits_C.dtype == torch.float64 else logits_C.float()
    return logits_C.gather(-1, codes[..., None])[..., 0] - logits_C.logsumexp(dim=-1)


def _repeat(prompts: PackedBatch, times: int) -> PackedBatch:
    """Return a batch in which every row stands `times` times in succession."""
    rows, width = prompts.tokens_BT.shape
    copies = torch.arange(rows * times, device=prompts.tokens_BT.device)
    per_item = prompts.history_places_HJ.shape[1]
    item_rows_H = prompts.history_places_HJ[:, 0] // width
    # items of a row stay together and in order: a stable sort by the copy they go to
    copy_HR = (item_rows_H[:, None] * times + torch.arange(times, device=copies.device)).flatten()
    order = copy_HR.argsort(stable=True)
    items = torch.arange(len(item_rows_H), device=copies.device).repeat_interleave(times)[order]
    columns_HJ = (prompts.history_places_HJ % width)[items]
    source_rows = copies // times
    return dataclasses.replace(
        prompts,
        tokens_BT=prompts.tokens_BT[source_rows],
        positions_BT=prompts.positions_BT[source_rows],
        visible_BT=prompts.visible_BT[source_rows],
        segment_BT=(prompts.segment_BT[source_rows] > 0) * (copies + 1)[:, None],
        history_places_HJ=(copy_HR[order] * width)[:, None].expand(-1, per_item) + columns_HJ,
        history_tokens_HL=prompts.history_tokens_HL[items],
        history_items_H=prompts.history_items_H[items],
        history_events_H=prompts.history_events_H[items],
        history_gaps_H=prompts.history_gaps_H[items],
        page_places_P=copies * width + (prompts.page_places_P % width)[source_rows],
        page_gaps_P=prompts.page_gaps_P[source_rows],
        user_vectors_PU=prompts.user_vectors_PU[source_rows],
    )


def _append(prompts: PackedBatch, tokens_QJ: Tensor) -> PackedBatch:
    """Return a batch whose open pages go on with `J` response tokens, right behind `[PAGE]`."""
    rows, width = prompts.tokens_BT.shape
    more = tokens_QJ.shape[1]
    page_column_B = prompts.page_places_P % width
    columns_BJ = page_column_B[:, None] + 1 + torch.arange(more, device=tokens_QJ.device)

    def grown(old_BT: Tensor, new_BJ: Tensor, fill: int) -> Tensor:
        wide = torch.nn.functional.pad(old_BT, (0, more), value=fill)
        return wide.scatter(1, columns_BJ, new_BJ)

    def at_page(values_BT: Tensor) -> Tensor:
        return values_BT.gather(1, page_column_B[:, None])

    def moved(places: Tensor) -> Tensor:
        return places + places // width * more

    return dataclasses.replace(
        prompts,
        tokens_BT=grown(prompts.tokens_BT, tokens_QJ, 0),
        positions_BT=grown(prompts.positions_BT, at_page(prompts.positions_BT) + 1 + torch.arange(more), -1),
        visible_BT=grown(prompts.visible_BT, at_page(prompts.visible_BT).expand(rows, more), 1),
        segment_BT=grown(prompts.segment_BT, at_page(prompts.segment_BT).expand(rows, more), 0),
        history_places_HJ=moved(prompts.history_places_HJ),
        page_places_P=moved(prompts.page_places_P),
    )
