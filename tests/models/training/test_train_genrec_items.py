"""GenRec trained with item vectors and an item head on sharded tables, loaded with plain ones."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from features.schemas import VALIDATION
from models.embedding.plain import PlainTables
from models.genrec.config import DecodeConfig
from models.genrec.data import load_sequences
from models.genrec.model import GenRec
from models.genrec.source import PackedSource
from models.metrics import ranking_metrics
from models.recommend.catalogue import catalogue_of
from models.recommend.genrec_retriever import GenRecRetriever
from models.recommend.requests import requests_from_sequences
from models.tokenizer.bundle import Bundle
from models.training.distributed import process_group
from models.training.engine import build_engine
from models.training.export import full_state
from models.training.genrec import VALIDATED_AT, load_genrec, train_genrec
from models.training.tables import TorchRecTables

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def config(genrec_worker):
    return dataclasses.replace(genrec_worker.MODEL, item_vectors=True, item_head=1.0)


@pytest.fixture(scope="module")
def shop(genrec_worker, config, tmp_path_factory):
    """A workspace and a training run in it."""
    workspace = genrec_worker.make_workspace(tmp_path_factory.mktemp("shop"))
    return workspace, train_genrec(workspace, config, genrec_worker.TRAIN_CONFIG, seed=3, track=False)


def test_a_run_knows_the_width_of_its_vectors_and_loads(shop):
    workspace, training = shop
    model, run = load_genrec(workspace)
    assert run.vector_width == catalogue_of(Bundle.load(workspace), workspace).item_vectors.shape[1] == 4
    assert model.item_level.history.weight.shape == (16, 4)
    assert training.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_the_head_learns_the_planted_successors(shop):
    """By itself: with its weight so large that codes do not matter. Chance is one in twelve.

    How much is learnt in so few steps hangs on the machine's linear algebra: 20 of 24, or 12, by OPENBLAS_CORETYPE.
    """
    workspace, _ = shop
    catalogue = catalogue_of(Bundle.load(workspace), workspace)
    cases = requests_from_sequences(workspace, catalogue, VALIDATION, max_history=50)
    retriever = GenRecRetriever(load_genrec(workspace)[0], catalogue, DecodeConfig(item_weight=1e3))
    first_B = retriever.retrieve(cases.requests, 1).items_BK[:, 0]
    assert (first_B == cases.relevant_items).mean() > 0.3


def test_weights_are_chosen_by_what_the_chosen_ones_do(shop, genrec_worker, config):
    """The keys of the items are those of the weights that are measured, not of the ones training began with."""
    workspace, training = shop
    catalogue = catalogue_of(Bundle.load(workspace), workspace)
    cases = requests_from_sequences(workspace, catalogue, VALIDATION, max_history=config.max_history)
    assert len(cases) <= genrec_worker.TRAIN_CONFIG.validation_pages
    retriever = GenRecRetriever(load_genrec(workspace)[0], catalogue, DecodeConfig(beams=2 * VALIDATED_AT))
    items_BK = retriever.retrieve(cases.requests, VALIDATED_AT).items_BK
    found = ranking_metrics(items_BK, cases.relevant_items, cases.relevant_offsets, ks=(VALIDATED_AT,))
    assert training.train.metrics == pytest.approx({name: values_B.mean() for name, values_B in found.items()})


def test_the_same_call_finds_the_same_run(shop, genrec_worker, config):
    workspace, training = shop
    again = train_genrec(workspace, config, genrec_worker.TRAIN_CONFIG, seed=3, track=False)
    assert again.run == training.run


def test_sharded_tables_learn_what_plain_ones_do(shop, genrec_worker, config):
    """Rows are looked up once a step, as history and as candidates, and updated once: more would be a step of 0.02."""
    workspace, _ = shop
    catalogue = catalogue_of(Bundle.load(workspace), workspace)
    config = dataclasses.replace(config, dropout=0.0)
    source = PackedSource(load_sequences(workspace, catalogue, config), catalogue, config, seed=0)
    train = dataclasses.replace(genrec_worker.TRAIN_CONFIG, ema_decay=None)

    def trained(tables: type[PlainTables] | type[TorchRecTables]) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        specs = GenRec.table_specs(config, len(catalogue))
        model = GenRec(config, catalogue.vocabulary, len(catalogue), tables(specs), vector_width=4)
        with torch.no_grad():
            model.get_parameter("tables.collection.embeddings.item.weight").copy_(torch.randn(12, 16) * 0.1)
        engine = build_engine(model, train, torch.device("cpu"))
        for step, batch in enumerate(source.iterate(0, 0)):
            engine.step(batch, 1.0, step / source.steps_per_epoch)
        return full_state(model)

    plain = trained(PlainTables)
    with process_group(torch.device("cpu")):
        sharded = trained(TorchRecTables)
    assert plain.keys() == sharded.keys()
    for name, value in plain.items():
        np.testing.assert_allclose(sharded[name].numpy(), value.numpy(), atol=2e-4, err_msg=name)
