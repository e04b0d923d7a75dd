"""Packed training equals page-by-page training, and no response sees what it must not."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pyarrow as pa
import pytest
import torch
from genrec_cases import DAY, make_catalogue, make_model, make_sequences

from features import schemas
from models.genrec.batch import pack_windows
from models.genrec.config import GenRecConfig
from models.genrec.data import SequenceData, Windows, draw_responses, make_windows, sequences_from_table


def one_page_windows(data: SequenceData, windows: Windows, levels: int, merged: bool) -> Windows:
    """Every page alone, with the history start of the window it was packed in."""
    counts = np.diff(windows.page_offsets)
    start = np.repeat(windows.history_start_W, counts)
    end = data.history_offsets[data.page_users] + data.visible_P
    tokens = 1 + (end - start) * (1 if merged else levels) + np.diff(data.response_offsets) * levels
    return Windows(
        history_start_W=start,
        history_end_W=end,
        page_order=np.arange(data.pages),
        page_offsets=np.arange(data.pages + 1),
        tokens_W=tokens,
    )


@pytest.mark.parametrize("prefix", [0, 5])
@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("objective", ["page", "point"])
@pytest.mark.parametrize("seed", range(3))
def test_packed_loss_and_gradients_equal_page_by_page(seed: int, objective: str, merge: bool, prefix: int) -> None:
    rng = np.random.default_rng(seed)
    catalogue = make_catalogue(rng)
    model = make_model(catalogue, objective=objective, merge_history=merge, user_prefix=prefix)
    table = sequences_from_table(make_sequences(rng, catalogue), catalogue, model.config)
    table = dataclasses.replace(table, user_vectors=rng.normal(size=(table.pages, prefix)).astype(np.float32))
    data = draw_responses(table, model.config, rng)
    windows = make_windows(data, model.config, 3, max_response_tokens=24)
    everything = np.arange(len(windows))
    batch = pack_windows(data, windows, everything, catalogue, model.config)
    assert batch.tokens == windows.tokens_W.sum()

    loss, diagnostics = model(batch)
    loss.backward()
    packed = {name: p.grad.to_dense().clone() for name, p in model.named_parameters() if p.grad is not None}
    assert ("user_projection.weight" in packed) == (prefix > 0)
    model.zero_grad()

    alone = one_page_windows(data, windows, 3, merge)
    total = 0.0
    first = []
    for page in range(data.pages):
        batch_p = pack_windows(data, alone, np.array([page]), catalogue, model.config)
        loss_p, diagnostics_p = model(batch_p)
        share = batch_p.target_weight_M.sum() / batch.target_weight_M.sum()
        (loss_p * share).backward()
        total += float(loss_p.detach() * share)
        first.append(diagnostics_p["loss_first_slot"])
    assert total == pytest.approx(float(loss), rel=1e-5)
    assert float(torch.stack(first).mean()) == pytest.approx(float(diagnostics["loss_first_slot"]), rel=1e-5)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad.to_dense(), packed[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("seed", range(10))
def test_history_is_strictly_before_its_page(seed: int) -> None:
    rng = np.random.default_rng(seed)
    catalogue = make_catalogue(rng)
    config = GenRecConfig(max_history=4)
    table = make_sequences(rng, catalogue, users=8, pages=12)
    data = sequences_from_table(table, catalogue, config)
    known = set(catalogue.item_ids.to_pylist())
    for row in table.to_pylist():
        user = int(row["user_id"][1:])
        positives = [
            (time.timestamp() * 1000, item)
            for item, event, time in zip(row["items"], row["events"], row["times"], strict=True)
            if event in schemas.POSITIVE_CODES and item in known
        ]
        for page in np.flatnonzero(data.page_users == user):
            before = sum(time < data.page_times[page] for time, _ in positives)
            assert data.visible_P[page] == before
    windows = make_windows(data, config, 3)
    starts = np.repeat(windows.history_start_W, np.diff(windows.page_offsets))
    seen = data.visible_P - (starts - data.history_offsets[data.page_users])
    assert (seen >= np.minimum(data.visible_P, config.max_history // 2)).all()
    assert (seen <= config.max_history).all()


def test_changing_the_future_changes_no_earlier_page() -> None:
    rng = np.random.default_rng(3)
    catalogue = make_catalogue(rng)
    model = make_model(catalogue)
    data = sequences_from_table(make_sequences(rng, catalogue, users=1, pages=9), catalogue, model.config)
    windows = make_windows(data, model.config, 3)
    batch = pack_windows(data, windows, np.array([0]), catalogue, model.config)
    hidden, _ = model.hidden(batch)
    visible = int(batch.visible_BT.view(-1)[batch.page_places_P[0]])
    changed = pack_windows(data, windows, np.array([0]), catalogue, model.config)
    changed.history_tokens_HL[visible - 1 :] = 3
    changed.history_items_H[visible - 1 :] = 0
    hidden_changed, _ = model.hidden(changed)
    first_page = batch.segment_BT[0] == 1
    torch.testing.assert_close(hidden[0, first_page], hidden_changed[0, first_page])
    assert not torch.allclose(hidden, hidden_changed)


def test_response_order_cap_and_dropped_pages() -> None:
    catalogue = make_catalogue(np.random.default_rng(0), items=5)
    rows = {
        "user_id": ["u"],
        "split": ["train"],
        "page_ids": [["p0", "p1"]],
        "page_times": [[0, DAY]],
        "page_lengths": [[3, 2]],
        "items": [["i1", "nowhere", "i2", "i3", "i4"]],
        "events": [[3, 1, 0, 0, 0]],
        "times": [[5, 6, 7, DAY, DAY]],
    }
    table = pa.table(rows, schema=schemas.SEQUENCES)
    data = sequences_from_table(table, catalogue, GenRecConfig())
    assert data.response_items.tolist() == [1, 2]
    assert data.history_items.tolist() == [1]
    assert data.dropped == {"no_semantic_id": 1, "page_without_positive": 1}
    rng = np.random.default_rng(0)
    assert draw_responses(data, GenRecConfig(page_items=1), rng).response_items.tolist() == [1]
    assert draw_responses(data, GenRecConfig(objective="point"), rng).response_items.tolist() == [1]
    with pytest.raises(ValueError, match=r"no training page has a positive item.* 0 of them in the catalogue"):
        sequences_from_table(table, make_catalogue(np.random.default_rng(0), items=1), GenRecConfig())


def test_ties_are_drawn_in_every_order_and_nothing_else_moves() -> None:
    catalogue = make_catalogue(np.random.default_rng(0), items=8)
    page = {
        "user_id": ["u"],
        "split": ["train"],
        "page_ids": [["p"]],
        "page_times": [[0]],
        "page_lengths": [[7]],
        "items": [["i0", "i1", "i2", "i3", "i4", "i5", "i6"]],
        "events": [[3, 3, 3, 1, 1, 0, 0]],
        "times": [[5, 5, 5, 5, 6, 5, 5]],
    }
    data = sequences_from_table(pa.table(page, schema=schemas.SEQUENCES), catalogue, GenRecConfig())
    assert data.response_ties.tolist() == [0, 0, 0, 1, 2, 3, 4]
    rng = np.random.default_rng(0)
    drawn = {tuple(draw_responses(data, GenRecConfig(), rng).response_items.tolist()) for _ in range(100)}
    assert {items[:3] for items in drawn} == set(itertools.permutations((0, 1, 2)))
    assert {items[3:] for items in drawn} == {(3, 4, 5, 6)}
    first = [draw_responses(data, GenRecConfig(page_items=1), rng).response_items.tolist() for _ in range(100)]
    assert {items[0] for items in first} == {0, 1, 2}
