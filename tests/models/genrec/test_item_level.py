"""Item vectors in the prompt and the item head: what they add, to whom, and nothing where they are off."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from genrec_cases import make_catalogue, make_model, make_requests, make_sequences

from features.semantic_ids import Catalogue
from models.genrec.batch import PackedBatch, pack_prompts, pack_windows
from models.genrec.config import DecodeConfig, GenRecConfig
from models.genrec.data import draw_candidates, make_windows, sequences_from_table
from models.genrec.item_level import item_logits
from models.genrec.model import GenRec

WIDTH = 5


def with_vectors(catalogue: Catalogue, seed: int = 0) -> Catalogue:
    vectors_NV = np.random.default_rng(seed).normal(size=(len(catalogue), WIDTH))
    vectors_NV[3] = 0
    return Catalogue(
        catalogue.item_ids, catalogue.codes_NL, catalogue.vocabulary.codes_per_level, None, lambda: vectors_NV
    )


def make_item_model(catalogue: Catalogue, **changes: object) -> GenRec:
    options = {"item_vectors": True, "item_head": 0.5, **changes}
    return make_model(catalogue, vector_width=WIDTH, **options)


def make_batch(catalogue: Catalogue, model: GenRec, seed: int = 0) -> PackedBatch:
    rng = np.random.default_rng(seed)
    data = sequences_from_table(make_sequences(rng, catalogue), catalogue, model.config)
    windows = make_windows(data, model.config, catalogue.vocabulary.levels)
    return pack_windows(data, windows, np.arange(len(windows)), catalogue, model.config, rng)


def test_without_vectors_and_head_the_model_is_the_same() -> None:
    catalogue = make_catalogue(np.random.default_rng(0))
    assert not any(name.startswith("item_level") for name in make_model(catalogue).state_dict())
    batch = make_batch(catalogue, make_model(catalogue))
    assert batch.history_vectors_HV.shape == (len(batch.history_items_H), 0)
    assert len(batch.candidates_C) == len(batch.target_candidate_M) == 0


def test_catalogue_vectors_have_mean_square_one_and_are_asked_for_only_when_wanted() -> None:
    plain = make_catalogue(np.random.default_rng(0), items=4)
    with pytest.raises(ValueError, match="got a catalogue without; take it from a semantic-ID bundle"):
        _ = plain.item_vectors
    catalogue = with_vectors(plain)
    square_N = np.square(catalogue.item_vectors).mean(axis=1)
    np.testing.assert_allclose(square_N, [1, 1, 1, 0], rtol=1e-5)
    new = catalogue.with_new_items(pa.array(["n"]), plain.codes_NL[:1], np.full((1, WIDTH), 7.0))
    np.testing.assert_allclose(new.item_vectors[:4], catalogue.item_vectors, rtol=1e-6)
    assert new.item_vectors[4].tolist() == [1] * WIDTH
    with pytest.raises(ValueError, match="give new items theirs"):
        _ = catalogue.with_new_items(pa.array(["n"]), plain.codes_NL[:1]).item_vectors


def test_a_new_item_is_told_apart_by_its_vector() -> None:
    """Two items of one semantic ID that training did not know: equal without vectors, different with them."""
    catalogue = with_vectors(make_catalogue(np.random.default_rng(1)))
    codes_ML = catalogue.codes_NL[[0, 0]]
    grown = catalogue.with_new_items(pa.array(["a", "b"]), codes_ML, np.eye(2, WIDTH))
    requests = make_requests(np.random.default_rng(2), catalogue, [1, 1])
    requests = dataclasses.replace(
        requests,
        history_items=np.array([40, 41]),
        history_events=np.array([2, 2], np.int8),
        history_times=np.array([7, 7]),
    )
    for model, same in ((make_model(catalogue), True), (make_item_model(catalogue), False)):
        with torch.no_grad():
            hidden_BTD, _ = model.hidden(pack_prompts(requests, grown, model.config))
        assert torch.allclose(hidden_BTD[0], hidden_BTD[1]) == same
    keys_ND = make_item_model(catalogue).item_keys(torch.from_numpy(grown.item_vectors))
    assert not torch.allclose(keys_ND[40], keys_ND[41])


def test_keys_are_projected_vectors_plus_table_rows() -> None:
    catalogue = with_vectors(make_catalogue(np.random.default_rng(1)))
    model = make_item_model(catalogue)
    vectors_NV = torch.from_numpy(catalogue.item_vectors)
    state = model.state_dict()
    table_ND = state["tables.collection.embeddings.item.weight"]
    expected = vectors_NV @ state["item_level.key.weight"].T + table_ND
    torch.testing.assert_close(model.item_keys(vectors_NV), expected)
    without_table = make_item_model(catalogue, item_table=False).item_keys(vectors_NV)
    assert not without_table[3].any()  # its vector is zero


@pytest.mark.parametrize("negatives", [1, 1000])
def test_the_loss_is_the_softmax_over_the_candidates_at_each_items_first_place(negatives: int) -> None:
    catalogue = with_vectors(make_catalogue(np.random.default_rng(1)))
    model = make_item_model(catalogue, item_negatives=negatives)
    batch = make_batch(catalogue, model)
    assert (len(batch.candidates_C) < 40) == (negatives == 1)
    with torch.no_grad():
        loss, diagnostics = model(batch)
        hidden_BTD, _ = model.hidden(batch)
        hidden_MD = hidden_BTD.flatten(0, 1)[batch.target_places_ML[:, 0]]
        keys_CD = model.item_keys(torch.from_numpy(catalogue.item_vectors))[batch.candidates_C]
        nll_M = F.cross_entropy(
            item_logits(model.item_level, hidden_MD, keys_CD), batch.target_candidate_M, reduction="none"
        )
    expected = (batch.target_weight_M * nll_M).sum() / batch.target_weight_M.sum()
    torch.testing.assert_close(diagnostics["loss_items"], expected)
    levels = sum(diagnostics[f"loss_level_{level}"] for level in range(3))
    torch.testing.assert_close(loss, levels + 0.5 * expected)


def test_every_part_learns_and_training_sees_what_evaluation_does() -> None:
    catalogue = with_vectors(make_catalogue(np.random.default_rng(1)))
    model = make_item_model(catalogue)
    batch = make_batch(catalogue, model)
    expected, _ = model(batch)
    loss, _ = model.train()(batch)  # another way through the blocks; no dropout
    torch.testing.assert_close(loss, expected)
    loss.backward()
    for name, parameter in model.named_parameters():
        if name.startswith("item_level"):
            assert parameter.grad.any(), name
    touched = model.get_parameter("tables.collection.embeddings.item.weight").grad.coalesce().indices()[0]
    assert touched.tolist() == list(range(40))  # the softmax is over all items


def test_candidates_of_a_large_catalogue_are_the_targets_and_a_draw() -> None:
    catalogue = make_catalogue(np.random.default_rng(0), items=100)
    config = GenRecConfig(item_head=1.0, item_negatives=5)
    targets = np.array([7, 99, 7])
    items, places = draw_candidates(targets, catalogue, config, np.random.default_rng(1))
    drawn = np.random.default_rng(1).integers(100, size=5)
    assert items.tolist() == sorted({7, 99, *drawn.tolist()})
    assert items[places].tolist() == [7, 99, 7]


def test_impossible_configurations_are_refused() -> None:
    with pytest.raises(ValueError, match="item_head: expected item_table or item_vectors, of which keys are made"):
        GenRecConfig(item_head=1.0, item_table=False)
    with pytest.raises(ValueError, match="item_head: expected at least 0, got -1"):
        GenRecConfig(item_head=-1)
    with pytest.raises(ValueError, match=r"item_weight: expected at least 0, got -0\.5"):
        DecodeConfig(item_weight=-0.5)
