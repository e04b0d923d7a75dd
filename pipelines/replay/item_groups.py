"""Groups of items and of pages: clusters that MIPS takes together, slices that a report tells apart.

Legend: `R` pages, `P` slots, `V` items.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.schemas import TRAIN
from features.workspace import Workspace
from models.recommend.catalogue import catalogue_of
from models.tokenizer.bundle import Bundle
from pipelines.replay.logged import LoggedBatch
from pipelines.replay.rounds import Bools, Ints

CATEGORY, SID = "category", "sid"
_HEAD_SHARE = 0.2
"""The most popular of the items that anybody liked are the head."""


class ItemGroups:
    """What belongs together, by the tables of a workspace; what it does not have is left out.

    Args:
        workspace: Perhaps with `clean_items`, semantic IDs, `item_statistics` and `sequences`.
        clusters: See `ReplayConfig`, which checks them.
    """

    def __init__(self, workspace: Workspace, clusters: str) -> None:
        self._ids, self._cluster_V = _clusters(workspace, clusters)
        self._known, self._head = _popularity(workspace)
        self._users = _training_users(workspace)

    def clusters(self, names: pa.Array) -> Ints:
        """Return the cluster of each item; one that nobody knows is a cluster of its own."""
        place = np.asarray(pc.fill_null(pc.index_in(names, value_set=self._ids), -1), dtype=np.int64)
        alone = -1 - np.arange(len(names))
        return np.where(place >= 0, self._cluster_V[place], alone) if len(self._ids) else alone

    def slices(self, batch: LoggedBatch) -> dict[str, Bools]:
        """Return which shown items belong to each slice."""
        slices: dict[str, Bools] = {}
        if self._known is not None and self._head is not None:
            head_V, known_V = (
                np.asarray(pc.is_in(batch.items, value_set=some), dtype=np.bool_) for some in (self._head, self._known)
            )
            for group, yes, no, mask_V in (("item", "head", "tail", head_V), ("novelty", "known", "new", known_V)):
                mask_RP = mask_V[batch.shown_RP] & batch.there_RP
                slices |= {f"{group}={yes}": mask_RP, f"{group}={no}": batch.there_RP & ~mask_RP}
        if self._users is not None:
            known_R = np.asarray(pc.is_in(batch.column("user_id"), value_set=self._users), dtype=np.bool_)
            slices |= {
                "users=known": batch.there_RP & known_R[:, None],
                "users=new": batch.there_RP & ~known_R[:, None],
            }
        return slices


def _clusters(workspace: Workspace, clusters: str) -> tuple[pa.Array, Ints]:
    if clusters == CATEGORY:
        table = workspace.table("clean_items")
        if not table.exists():
            return pa.array([], pa.string()), np.zeros(0, dtype=np.int64)
        items = table.read(["item_id", "category"]).combine_chunks()
        paths = pc.binary_join(items["category"].combine_chunks(), "\x1f")  # a character no name holds
        number = pc.dictionary_encode(paths).indices
        return items["item_id"].combine_chunks(), _apart(np.asarray(pc.fill_null(number, -1), dtype=np.int64))
    levels = int(clusters.removeprefix(SID))
    catalogue = catalogue_of(Bundle.load(workspace, None), workspace)
    _, number = np.unique(catalogue.codes_NL[:, :levels], axis=0, return_inverse=True)
    return catalogue.item_ids, number.reshape(-1).astype(np.int64)


def _apart(number_V: Ints) -> Ints:
    """Return clusters where items without one are alone."""
    return np.where(number_V < 0, number_V.max(initial=0) + 1 + np.arange(len(number_V)), number_V)


def _popularity(workspace: Workspace) -> tuple[pa.Array | None, pa.Array | None]:
    """Return the items that training knows, and the most popular ones."""
    table = workspace.table("item_statistics")
    if not table.exists():
        return None, None
    rows = table.read(["item_id", "popularity"])
    liked = rows.filter(pc.greater(rows["popularity"], 0)).sort_by(
        [("popularity", "descending"), ("item_id", "ascending")]
    )
    head = liked.slice(0, int(np.ceil(_HEAD_SHARE * liked.num_rows)))
    return rows["item_id"].combine_chunks(), head["item_id"].combine_chunks()


def _training_users(workspace: Workspace) -> pa.Array | None:
    table = workspace.table("sequences")
    if not table.exists():
        return None
    return pc.unique(table.read(["user_id"], filter=pc.field("split") == TRAIN)["user_id"])
