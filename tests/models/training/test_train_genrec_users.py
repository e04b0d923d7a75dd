"""GenRec trained on pages that start from the user vectors of a two-tower run."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from features.schemas import VALIDATION
from models.genrec.config import DecodeConfig
from models.genrec.data import load_sequences
from models.recommend.catalogue import catalogue_of
from models.recommend.genrec_retriever import GenRecRetriever
from models.recommend.interface import RequestBatch
from models.recommend.requests import requests_from_sequences
from models.tokenizer.bundle import Bundle
from models.training.config import TrainConfig
from models.training.genrec import load_genrec, train_genrec
from models.training.genrec_users import with_users
from models.training.runs import MissingRunError
from models.training.two_tower import load_two_tower, train_two_tower
from models.two_tower.config import TwoTowerConfig

pytestmark = pytest.mark.integration

WIDTH = 8
TOWERS = TwoTowerConfig(
    hidden=(16, WIDTH),
    item_dimensions=8,
    feature_dimensions=4,
    history_windows=(1, 3),
    batch_size=16,
    uniform_negatives=8,
    frequency_buckets=64,
)
QUICK = TrainConfig(epochs=2, learning_rate=0.02, precision="float32", threads=1)


@pytest.fixture(scope="module")
def shop(genrec_worker, tmp_path_factory):
    """A workspace with a two-tower run and a GenRec run on top of it."""
    workspace = genrec_worker.make_workspace(tmp_path_factory.mktemp("shop"))
    config = dataclasses.replace(genrec_worker.MODEL, user_prefix=WIDTH)
    with pytest.raises(MissingRunError, match="no trained two-tower model"):
        train_genrec(workspace, config, QUICK, seed=3, track=False)
    towers = train_two_tower(workspace, TOWERS, QUICK, seed=1, track=False)
    return workspace, config, towers, train_genrec(workspace, config, QUICK, seed=3, track=False)


def test_the_run_knows_its_two_tower_run_and_trained_its_projection(shop):
    workspace, _, towers, training = shop
    model, run = load_genrec(workspace)
    assert (run.name, run.two_tower) == (training.run, towers.run)
    assert model.user_projection.weight.shape == (16, WIDTH)
    assert model.user_projection.weight.any()


def test_training_pages_get_the_vector_the_service_would_compute(shop):
    """Of a request with the page's visible history, page by page."""
    workspace, config, _, _ = shop
    run = load_genrec(workspace)[1]
    catalogue = catalogue_of(Bundle.load(workspace), workspace)
    users, _ = load_two_tower(workspace, run.two_tower)
    data = with_users(workspace, catalogue, load_sequences(workspace, catalogue, config), users)
    assert data.user_vectors.shape == (data.pages, WIDTH)
    for page in (0, 3, data.pages - 1):
        start = data.history_offsets[data.page_users[page]]
        request = request_of(data, start, start + data.visible_P[page], data.page_users[page], data.page_times[page])
        np.testing.assert_allclose(users.user_vectors(request, catalogue)[0], data.user_vectors[page], atol=1e-5)


def request_of(data, start, end, user, time):
    return RequestBatch(
        user_ids=[f"u{user:02d}"],
        times_B=np.array([time]),
        history_items=data.history_items[start:end],
        history_events=data.history_events[start:end].astype(np.int8),
        history_times=data.history_times[start:end],
        history_offsets=np.array([0, end - start]),
        excluded_items=np.zeros(0, np.int64),
        excluded_offsets=np.zeros(2, np.int64),
    )


def test_it_answers_with_its_two_tower_model_only(shop):
    workspace, _, _, _ = shop
    model, run = load_genrec(workspace)
    catalogue = catalogue_of(Bundle.load(workspace), workspace)
    cases = requests_from_sequences(workspace, catalogue, VALIDATION, max_history=50)
    users, _ = load_two_tower(workspace, run.two_tower)
    retriever = GenRecRetriever(model, catalogue, DecodeConfig(beams=16), users)
    assert (retriever.retrieve(cases.requests, 5).items_BK[:, 0] >= 0).all()
    with pytest.raises(ValueError, match="expected the two-tower model"):
        GenRecRetriever(model, catalogue, DecodeConfig(beams=16))


def test_another_width_is_refused_before_training(shop):
    workspace, config, towers, _ = shop
    with pytest.raises(
        ValueError, match=rf"user_prefix: expected 8, the width .* run {towers.run}, got 9; set it to 8"
    ):
        train_genrec(workspace, dataclasses.replace(config, user_prefix=9), QUICK, seed=3, track=False)


def test_without_a_prefix_no_two_tower_run_is_named(shop):
    workspace, config, _, _ = shop
    without = dataclasses.replace(config, user_prefix=0)
    training = train_genrec(workspace, without, dataclasses.replace(QUICK, epochs=1), seed=3, track=False)
    model, run = load_genrec(workspace, training.run)
    assert run.two_tower is None
    assert "user_projection.weight" not in model.state_dict()
    assert torch.isfinite(model.lm_head.weight).all()
