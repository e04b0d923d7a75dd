"""The TorchRec form of `models.embedding.plain.PlainTables`: fused optimisers, and sharding over processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchrec import EmbeddingCollection, EmbeddingConfig, KeyedJaggedTensor

from models.embedding.checks import check_ids
from models.embedding.plain import zero_where_absent
from models.embedding.spec import TableSpec, check_specs


class TorchRecTables(nn.Module):
    """Embedding tables in a TorchRec `EmbeddingCollection`; same forward and state dict as `PlainTables`.

    `DistributedModelParallel` replaces `collection` by its sharded form; the same forward serves both. All ids of a
    table form one jagged example, so the batch is of size one on every process, whatever number of ids each has::

        values  [ 7 3 3 | 5 2 ]   ids of table 0, then of table 1
        lengths [ 3     | 2   ]

    Args:
        specs: Tables of equal dimensions.
    """

    def __init__(self, specs: Sequence[TableSpec]) -> None:
        super().__init__()
        self.specs = check_specs(specs)
        self.collection = EmbeddingCollection(
            tables=[
                EmbeddingConfig(
                    name=spec.name,
                    num_embeddings=spec.rows,
                    embedding_dim=spec.dimensions,
                    feature_names=[spec.name],
                    weight_init_min=-spec.scale,
                    weight_init_max=spec.scale,
                )
                for spec in self.specs
            ]
        )

    def forward(self, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Look up the vectors of each table; arguments, result and errors as those of `PlainTables.forward`."""
        check_ids(ids, self.specs)
        values = [ids[spec.name] for spec in self.specs]
        lengths = torch.tensor([len(part) for part in values], dtype=torch.int64, device=values[0].device)
        features = KeyedJaggedTensor(
            keys=[spec.name for spec in self.specs], values=torch.cat(values).clamp_min(0), lengths=lengths
        )
        found = self.collection(features)
        return {spec.name: zero_where_absent(found[spec.name].values(), ids[spec.name]) for spec in self.specs}
