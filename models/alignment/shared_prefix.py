"""Log-probabilities of many responses to one prompt, encoding the prompt once.

GRPO asks for `R` responses of `L` codes to the same prompt of `T` places. One row per response costs `R (T + L - 1)`
places; one row per request costs `T + R (L - 1)`, because the open page's `[PAGE]` place predicts the first code of all
responses at once and the last code of a response predicts nothing::

    [BOS] [h1] [h2] [PAGE]   s1 s2   s1' s2'  ...
     prompt (causal)         sees    sees the prompt and
                             the     itself, not s1 s2
                             prompt

This is the layout of a training row with several pages, so `GenRec.hidden` runs it as it is. Responses are masked from
each other, not left out of each other's attention, which costs little while `R J` is no more than a few times `T`.

Legend: `B` requests, `R` responses of each, `Q` rows of one response, `L` levels, `J = L - 1` places of a response, `T`
places, `C` codes of a level, `D` width.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from features.semantic_ids import PAD
from models.genrec.batch import PackedBatch
from models.genrec.model import GenRec


def response_logprobs(model: GenRec, prompts: PackedBatch, codes_BRL: Tensor) -> Tensor:
    """Return the log-probability of every code of every response, given its prompt and its own earlier codes.

    Values and gradients equal those of `naive_response_logprobs`. With dropout the responses of a request share the
    random choices made in their prompt, and have their own at their own places.

    Args:
        model: The policy, in either mode.
        prompts: `B` open pages, from `pack_prompts`.
        codes_BRL: Zero-based codes of the responses, int64; responses of one request may be equal.

    Returns:
        `[B, R, L]`, at least float32: the log-softmax over the codes of each level.

    Raises:
        ValueError: Prompts and responses do not belong together.
    """
    return logprobs_after(model, hidden_before_codes(model, prompts, codes_BRL), codes_BRL)


def hidden_before_codes(model: GenRec, prompts: PackedBatch, codes_BRL: Tensor) -> list[Tensor]:
    """Return the states that predict the codes of each level: `[B, 1, D]` for the first, `[B, R, D]` for the others.

    Arguments and errors as for `response_logprobs`. The first is the `[PAGE]` place's, which an item head reads too.
    """
    _check(model, prompts, codes_BRL)
    return _hidden_before_codes(model, prompts, codes_BRL[..., :-1])


def logprobs_after(model: GenRec, hidden_BRLD: list[Tensor], codes_BRL: Tensor) -> Tensor:
    """Return `response_logprobs` from what `hidden_before_codes` returns for the same codes."""
    return torch.stack(
        [
            _logprobs(model, hidden, level, codes_BR)
            for level, (hidden, codes_BR) in enumerate(zip(hidden_BRLD, codes_BRL.unbind(-1), strict=True))
        ],
        dim=-1,
    )


def naive_response_logprobs(model: GenRec, prompts: PackedBatch, codes_BRL: Tensor) -> Tensor:
    """Return what `response_logprobs` does, by one row of prompt and response for every response.

    Raises:
        ValueError: Prompts and responses do not belong together.
    """
    _check(model, prompts, codes_BRL)
    _, responses, levels = codes_BRL.shape
    rows = _repeat(prompts, responses)
    codes_QL = codes_BRL.flatten(0, 1)
    page_Q1 = rows.page_places_P[:, None] % rows.tokens_BT.shape[1]
    more = torch.arange(1, levels, device=codes_QL.device).expand(len(codes_QL), -1)
    batch = _append(
        rows,
        tokens_BM=_tokens(model, codes_QL[:, :-1]),
        distance_BM=more,
        visible_BM=rows.visible_BT.gather(1, page_Q1).expand_as(more),
        segment_BM=rows.segment_BT.gather(1, page_Q1).expand_as(more),
    )
    hidden_BTD, _ = model.hidden(batch)
    places_QL = batch.page_places_P[:, None] + torch.arange(levels, device=codes_QL.device)
    hidden_QLD = hidden_BTD.flatten(0, 1)[places_QL]
    logprobs = [
        _log_softmax(model.level_logits(hidden_QLD[:, level], level)).gather(1, codes_QL[:, level, None])
        for level in range(levels)
    ]
    return torch.cat(logprobs, dim=1).view_as(codes_BRL)


def _hidden_before_codes(model: GenRec, prompts: PackedBatch, codes_BRJ: Tensor) -> list[Tensor]:
    rows, responses, places = codes_BRJ.shape
    width = prompts.tokens_BT.shape[1]
    page_B1 = prompts.page_places_P[:, None] % width
    # [PAGE] becomes the last place of the prompt, which every response sees
    prompt = dataclasses.replace(
        prompts,
        visible_BT=prompts.visible_BT.scatter(1, page_B1, page_B1 + 1),
        segment_BT=torch.zeros_like(prompts.segment_BT),
    )
    place_M = torch.arange(responses * places, device=codes_BRJ.device)
    batch = _append(
        prompt,
        tokens_BM=_tokens(model, codes_BRJ).flatten(1),
        distance_BM=(place_M % max(places, 1) + 1).expand(rows, -1),
        visible_BM=(page_B1 + 1).expand(-1, len(place_M)),
        segment_BM=(torch.arange(rows, device=place_M.device)[:, None] * responses + 1) + place_M // max(places, 1),
    )
    hidden_BTD, _ = model.hidden(batch)
    flat = hidden_BTD.flatten(0, 1)
    page_B11 = batch.page_places_P[:, None, None]
    later_BRJ = page_B11 + 1 + place_M.view(1, responses, places)
    return [flat[page_B11[..., 0]], *(flat[place_BR] for place_BR in later_BRJ.unbind(-1))]


def _logprobs(model: GenRec, hidden_BXD: Tensor, level: int, codes_BR: Tensor) -> Tensor:
    """Return the log-probabilities of codes, where `X` is `R`, or 1 for a state that predicts all of them."""
    logprobs_BXC = _log_softmax(model.level_logits(hidden_BXD, level))
    return logprobs_BXC.expand(-1, codes_BR.shape[1], -1).gather(2, codes_BR[..., None])[..., 0]


def _log_softmax(logits_C: Tensor) -> Tensor:
    return logits_C.to(torch.promote_types(logits_C.dtype, torch.float32)).log_softmax(dim=-1)


def _check(model: GenRec, prompts: PackedBatch, codes_BRL: Tensor) -> None:
    rows, levels = len(prompts.tokens_BT), model.vocabulary.levels
    if len(prompts.page_places_P) != rows or len(prompts.target_places_ML):
        raise ValueError(
            f"prompts: expected one open page per row, got {len(prompts.page_places_P)} pages with "
            f"{len(prompts.target_places_ML)} responses in {rows} rows; build them with pack_prompts"
        )
    if codes_BRL.ndim != 3 or codes_BRL.shape[0] != rows or codes_BRL.shape[1] < 1 or codes_BRL.shape[2] != levels:
        raise ValueError(f"codes: expected shape [{rows}, R >= 1, {levels}], got {list(codes_BRL.shape)}")


def _tokens(model: GenRec, codes_J: Tensor) -> Tensor:
    """Return the input tokens of the first `J` codes of responses, `[..., J]`."""
    offsets = model.vocabulary.offsets[: codes_J.shape[-1]]
    return codes_J + torch.tensor(offsets, dtype=torch.int64, device=codes_J.device)


def _append(
    prompts: PackedBatch, *, tokens_BM: Tensor, distance_BM: Tensor, visible_BM: Tensor, segment_BM: Tensor
) -> PackedBatch:
    """Return a batch with `M` more places right behind each row's `[PAGE]`, from which `distance` is counted."""
    width, more = prompts.tokens_BT.shape[1], tokens_BM.shape[1]
    page_B1 = prompts.page_places_P[:, None] % width
    columns_BM = page_B1 + 1 + torch.arange(more, device=tokens_BM.device)

    def grown(old_BT: Tensor, new_BM: Tensor, fill: int) -> Tensor:
        return F.pad(old_BT, (0, more), value=fill).scatter(1, columns_BM, new_BM)

    def moved(places: Tensor) -> Tensor:
        return places + places // width * more

    return dataclasses.replace(
        prompts,
        tokens_BT=grown(prompts.tokens_BT, tokens_BM, PAD),
        positions_BT=grown(prompts.positions_BT, prompts.positions_BT.gather(1, page_B1) + distance_BM, -1),
        visible_BT=grown(prompts.visible_BT, visible_BM, 1),
        segment_BT=grown(prompts.segment_BT, segment_BM, 0),
        history_places_HJ=moved(prompts.history_places_HJ),
        page_places_P=moved(prompts.page_places_P),
    )


def _repeat(prompts: PackedBatch, times: int) -> PackedBatch:
    """Return a batch in which every row stands `times` times in succession."""
    rows, width = prompts.tokens_BT.shape
    copies_Q = torch.arange(rows * times, device=prompts.tokens_BT.device)
    source_Q = copies_Q // times
    history_B = prompts.history_places_HJ[:, 0] // width
    item, copy = (source_Q == history_B[:, None]).nonzero(as_tuple=True)
    return dataclasses.replace(
        prompts,
        tokens_BT=prompts.tokens_BT[source_Q],
        positions_BT=prompts.positions_BT[source_Q],
        visible_BT=prompts.visible_BT[source_Q],
        segment_BT=(prompts.segment_BT[source_Q] > 0) * (copies_Q + 1)[:, None],
        history_places_HJ=prompts.history_places_HJ[item] % width + copy[:, None] * width,
        history_tokens_HL=prompts.history_tokens_HL[item],
        history_items_H=prompts.history_items_H[item],
        history_events_H=prompts.history_events_H[item],
        history_gaps_H=prompts.history_gaps_H[item],
        page_places_P=prompts.page_places_P[source_Q] % width + copies_Q * width,
        page_gaps_P=prompts.page_gaps_P[source_Q],
        user_vectors_PU=prompts.user_vectors_PU[source_Q],
    )
