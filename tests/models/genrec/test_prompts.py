"""Prompts of requests: what is read of a history, and that requests answered together do not touch each other."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from genrec_cases import make_catalogue, make_model, make_requests

from features.schemas import CLICK, DISLIKE, EVENT_CODE
from kernels.jagged import concat_ranges, offsets_from_lengths
from kernels.trie import Trie
from models.genrec.batch import pack_prompts
from models.genrec.decode import beam_search
from models.recommend.interface import RequestBatch

LENGTHS = [0, 1, 4, 6, 11]
"""Of histories: none, shorter than `max_history = 6`, equal, longer."""


def cut(requests: RequestBatch, newest: int) -> RequestBatch:
    """Keep the newest entries of each history."""
    lengths = np.minimum(np.diff(requests.history_offsets), newest)
    kept = concat_ranges(requests.history_offsets[1:] - lengths, lengths)
    return dataclasses.replace(
        requests,
        history_items=requests.history_items[kept],
        history_events=requests.history_events[kept],
        history_times=requests.history_times[kept],
        history_offsets=offsets_from_lengths(lengths),
    )


@pytest.mark.parametrize("merge", [True, False])
def test_a_request_is_answered_alike_alone_and_among_others(merge: bool) -> None:
    rng = np.random.default_rng(0)
    catalogue = make_catalogue(rng)
    model, trie = make_model(catalogue, merge_history=merge), Trie.from_sorted(catalogue.sids_SL)
    requests = make_requests(rng, catalogue, LENGTHS)
    together = beam_search(model, pack_prompts(requests, catalogue, model.config), trie, beams=5)
    for row in range(len(LENGTHS)):
        alone = pack_prompts(requests.take(np.array([row])), catalogue, model.config)
        assert alone.tokens == 2 + min(LENGTHS[row], 6) * (1 if merge else 3)  # BOS, history, PAGE
        found = beam_search(model, alone, trie, beams=5)
        torch.testing.assert_close(found.scores_BK[0], together.scores_BK[row])
        assert torch.equal(found.sids_BK[0], together.sids_BK[row])


@pytest.mark.parametrize("merge", [True, False])
def test_only_the_newest_items_are_read(merge: bool) -> None:
    rng = np.random.default_rng(1)
    catalogue = make_catalogue(rng)
    model = make_model(catalogue, merge_history=merge)
    requests = make_requests(rng, catalogue, LENGTHS)
    whole, newest = (pack_prompts(part, catalogue, model.config) for part in (requests, cut(requests, 6)))
    for field in dataclasses.fields(whole):
        assert torch.equal(getattr(whole, field.name), getattr(newest, field.name)), field.name


def test_dislikes_are_not_read_and_take_no_place() -> None:
    rng = np.random.default_rng(2)
    catalogue = make_catalogue(rng)
    model = make_model(catalogue)
    requests = make_requests(rng, catalogue, [8])
    requests.history_events[:] = [EVENT_CODE[CLICK], EVENT_CODE[DISLIKE]] * 4
    prompts = pack_prompts(requests, catalogue, model.config)
    assert prompts.history_items_H.tolist() == requests.history_items[::2].tolist()
