"""Semantic IDs from the item vectors of a two-tower run: planted ones, in the files of a finished run."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.schemas import ITEMS
from features.workspace import Workspace
from models.tokenizer.append import encode_new
from models.tokenizer.build import build_bundle
from models.tokenizer.bundle import Bundle
from models.tokenizer.config import SemanticIdConfig
from models.training.position import TrainReport
from models.training.runs import WEIGHTS, MissingRunError, Runs
from models.training.two_tower_run import ITEM_VECTORS

pytestmark = pytest.mark.integration

WIDTH = 12
GROUPS = 24
REPORT = TrainReport(
    steps=0,
    epochs=0.0,
    examples=0,
    seconds=0.0,
    losses=[],
    metrics={},
    best_step=None,
    stopped="epochs",
    peak_rss_mb=0.0,
    processes=1,
)


def planted(item_ids: Sequence[str], rotated: int = 0) -> np.ndarray:
    """Unit vectors: one of 24 directions by the item's number, with a little noise."""
    rng = np.random.default_rng(5)
    directions = rng.normal(size=(GROUPS, WIDTH))
    groups = [(int(item[1:]) + rotated) % GROUPS for item in item_ids]
    vectors = directions[groups] + 0.1 * rng.normal(size=(len(item_ids), WIDTH))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def write_run(workspace: Workspace, name: str, item_ids: Sequence[str], vectors: np.ndarray) -> None:
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    sink = io.BytesIO()
    pq.write_table(pa.table({"item_id": pa.array(item_ids), "vector": column}), sink)
    Runs(workspace, "two_tower").write(name, {}, {WEIGHTS: b"", ITEM_VECTORS: sink.getvalue()}, REPORT)


@pytest.fixture
def config(nano: SemanticIdConfig) -> SemanticIdConfig:
    return dataclasses.replace(nano, collaborative="two_tower")


@pytest.fixture
def trained(workspace_of: Callable[..., Workspace], items_table: pa.Table) -> Workspace:
    """The shop without sequences, and two runs; items 0 to 99 came after the training."""
    workspace = workspace_of(items_table)
    ids = items_table["item_id"].to_pylist()[100:][::-1]
    write_run(workspace, "old", ids, planted(ids, rotated=1))
    write_run(workspace, "new", ids, planted(ids))
    return workspace


def test_the_newest_run_is_used_and_named(trained: Workspace, config: SemanticIdConfig) -> None:
    report = build_bundle(trained, config, seed=0)
    bundle = Bundle.load(trained)
    assert report.vector_width == config.text_dimensions + WIDTH
    assert bundle.manifest["inputs"]["two_tower"] == "new"
    assert "sequences" not in bundle.manifest["inputs"]
    ids = bundle.item_ids.to_pylist()
    np.testing.assert_allclose(bundle.vectors[100:, -WIDTH:], planted(ids[100:][::-1])[::-1], atol=1e-3)
    Runs(trained, "two_tower").point_to("old")
    assert build_bundle(trained, config, seed=0).generation != report.generation
    assert Bundle.load(trained).manifest["inputs"]["two_tower"] == "old"


def test_items_without_a_vector_get_the_guess_from_their_content(trained: Workspace, config: SemanticIdConfig) -> None:
    build_bundle(trained, config, seed=0)
    bundle = Bundle.load(trained)
    guessed, truth = bundle.vectors[:100, -WIDTH:], planted(bundle.item_ids.to_pylist()[:100])
    cosine = (guessed.astype(np.float32) * truth).sum(axis=1)
    assert cosine.mean() > 0.7  # the words of a title tell the category, hence the direction
    items = pa.Table.from_pylist(
        [{"item_id": "i90003", "title": "kind3x1 kind3x2", "category": ["shop", "c3"]}], schema=ITEMS
    )
    new = encode_new(bundle, items)
    like = planted(["i00003"])[0]
    assert float(new.vectors_MD[0, -WIDTH:] @ like) > 0.7
    np.testing.assert_array_equal(bundle.quantizer.encode(new.vectors_MD), new.codes_ML)


def test_without_a_run_it_is_told_how_to_get_one(
    workspace_of: Callable[..., Workspace], items_table: pa.Table, config: SemanticIdConfig
) -> None:
    workspace = workspace_of(items_table)
    with pytest.raises(MissingRunError, match=r"no trained two-tower model.* run `pagewise train two-tower`"):
        build_bundle(workspace, config, seed=0)
    none = dataclasses.replace(config, collaborative_dimensions=0)
    assert build_bundle(workspace, none, seed=0).vector_width == config.text_dimensions


def test_a_run_of_other_items_is_refused(
    workspace_of: Callable[..., Workspace], items_table: pa.Table, config: SemanticIdConfig
) -> None:
    workspace = workspace_of(items_table)
    write_run(workspace, "other", ["x1", "x2"], planted(["x1", "x2"]))
    with pytest.raises(ValueError, match="expected vectors of the 1200 items, got 2 of other items"):
        build_bundle(workspace, config, seed=0)
