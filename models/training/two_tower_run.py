"""What a trained two-tower model was made from, and how it is loaded; its files lie in `checkpoints/two_tower/`.

Beside the files of every run (`runs`)::

    features.safetensors    features, vocabularies and scales (`models.two_tower.schema`)
    items.safetensors       inputs of the items of the catalogue at training time
    item_vectors.parquet    their ids and unit vectors, the item tower's output
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from features.workspace import Workspace
from models.training.config import TrainConfig, stored_config
from models.training.export import load_weights
from models.training.runs import WEIGHTS, Runs
from models.two_tower.config import TwoTowerConfig
from models.two_tower.inputs import ItemRows
from models.two_tower.model import TwoTower
from models.two_tower.schema import Schema
from models.two_tower.towers import TwoTowerNet

KIND = "two_tower"
FEATURES, ITEMS, ITEM_VECTORS = "features.safetensors", "items.safetensors", "item_vectors.parquet"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoTowerRun:
    """What a two-tower model was trained from."""

    model: TwoTowerConfig
    train: TrainConfig
    seed: int
    items: int
    """Items of the catalogue at training time."""
    inputs: Mapping[str, str]
    """Fingerprints of the tables it was trained on."""
    schema: str
    """Digest of features, vocabularies and scales."""
    code_version: str
    warm_from: str | None = None
    """The run whose weights it started from."""
    split: dict[str, Any] | None = None
    """How the sequences were split."""

    @property
    def name(self) -> str:
        """The run's name: a digest of all inputs but the code version."""
        apart = {"code_version", "split", *(("warm_from",) if self.warm_from is None else ())}
        inputs = {key: value for key, value in dataclasses.asdict(self).items() if key not in apart}
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        """Return the run as a JSON document."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> TwoTowerRun:
        """Read what `to_json` wrote."""
        options: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in document["model"].items()
        }
        advice = "train it again: `pagewise run`, or `pagewise train two-tower`"
        parts = {
            "model": stored_config(TwoTowerConfig, options, advice),
            "train": stored_config(TrainConfig, document["train"], advice),
        }
        return cls(**{**document, **parts})


def run_files(
    run: TwoTowerRun, schema: Schema, item_ids: pa.Array, items: ItemRows, weights: Mapping[str, Tensor]
) -> dict[str, bytes]:
    """Return the contents of a run's further files, item vectors included, by name."""
    net = TwoTowerNet(schema, run.model, run.items)
    net.load_state_dict(dict(weights))
    vectors_ND = TwoTower(net.eval(), schema, item_ids, items).known_item_vectors()
    return {
        FEATURES: schema.to_bytes(),
        ITEMS: items.to_bytes(),
        ITEM_VECTORS: _vector_table(item_ids, vectors_ND),
    }


def load_two_tower(workspace: Workspace, run: str | None = None) -> tuple[TwoTower, TwoTowerRun]:
    """Load a finished run for evaluation or serving; TorchRec is not needed.

    Args:
        workspace: A workspace on this machine.
        run: The run's name; None for the latest.

    Raises:
        MissingRunError: There is no finished run of that name, or none at all.
        ValueError: A file does not have the digest its manifest tells.
    """
    found = Runs(workspace, KIND).open(run)
    return read_two_tower(found.folder, found.config)


def read_two_tower(folder: Path, config: dict[str, Any]) -> tuple[TwoTower, TwoTowerRun]:
    """Read the files of a run, wherever a copy of them lies."""
    record = TwoTowerRun.from_json(config)
    schema = Schema.load(str(folder / FEATURES))
    net = TwoTowerNet(schema, record.model, record.items)
    load_weights(net, folder / WEIGHTS)
    item_ids, _ = read_item_vectors(folder)
    return TwoTower(net.eval(), schema, item_ids, ItemRows.load(schema, folder / ITEMS)), record


def read_item_vectors(folder: Path) -> tuple[pa.Array, npt.NDArray[np.float32]]:
    """Return item ids and their unit vectors, float32 `[N, D]`, from the files of a run."""
    table = pq.read_table(folder / ITEM_VECTORS)
    vectors = table.column("vector").combine_chunks()
    flat = np.asarray(vectors.flatten(), dtype=np.float32)
    return table.column("item_id").combine_chunks(), flat.reshape(len(table), -1)


def _vector_table(item_ids: pa.Array, vectors_ND: npt.NDArray[np.float32]) -> bytes:
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors_ND.reshape(-1)), vectors_ND.shape[1])
    sink = io.BytesIO()
    pq.write_table(pa.table({"item_id": item_ids, "vector": column}), sink)
    return sink.getvalue()
