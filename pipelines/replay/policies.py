"""What stands behind a named policy: a release, a rule, whoever made the logs, or a table of probabilities.

Legend: `R` pages, `P` slots, `K` columns of a page, `X` (page, item) pairs, `V` distinct items.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.definitions import ITEM_FEATURES, PAGE_FEATURES
from features.workspace import Workspace
from models.recommend.catalogue import catalogue_of
from models.recommend.config import RecommendConfig
from models.recommend.deltas import CatalogueState, caught_up
from models.recommend.fresh import with_past_items
from models.recommend.policy import Policy
from models.recommend.ranked import POPULAR, TRANSITIONS
from models.recommend.recommender import Recommender
from models.recommend.release import load_release
from models.recommend.release_parts import ReleaseConfig, page_maker
from models.tokenizer.bundle import Bundle
from pipelines.replay.choosers import Chooser, Opinion, Tabled
from pipelines.replay.config import ReplayConfig
from pipelines.replay.logged import NOBODY, Grid, LoggedBatch
from pipelines.replay.named import RELEASE, TABLE, UNIFORM, NamedPolicy
from pipelines.replay.page_makers import PageMakerPolicy
from pipelines.replay.rounds import Floats, Ints

_LOOKED_AT = ("sequences", "clean_users", "clean_items", "item_statistics", "transitions", PAGE_FEATURES, ITEM_FEATURES)


def table_versions(workspace: Workspace) -> list[str]:
    """Return which tables there are that policies look at."""
    tables = [workspace.table(name) for name in _LOOKED_AT]
    return [table.manifest().fingerprint if table.exists() else "" for table in tables]


class Proposal(Protocol):
    """What a policy says about a batch of pages.

    Attributes:
        rows_X, ids: Page and id of every item that it might show, beside those that the log names.
    """

    rows_X: Ints
    ids: pa.Array

    def on(self, batch: LoggedBatch, grid: Grid, names: pa.Array) -> Chooser:
        """Return what it would put on the pages.

        Args:
            batch: The pages.
            grid: Columns for all items that anybody named.
            names: Ids of the grid's items.
        """
        ...


class JudgedPolicy(Protocol):
    """A policy that is ready to be asked about pages."""

    def about(self, batch: LoggedBatch) -> Proposal:
        """Return what it says about logged pages."""
        ...


def open_policy(named: NamedPolicy, workspace: Workspace, config: ReplayConfig) -> JudgedPolicy:
    """Load a policy; `logged` is nobody to be asked, its chances are in the log.

    Args:
        named: From `named_policy`.
        workspace: Holds histories and features of the past, and the rules' tables.
        config: Whose candidates count.

    Raises:
        ValueError: It is `logged`, or its table is none.
    """
    if named.kind == TABLE:
        return TablePolicy(str(named.file))
    if named.kind == UNIFORM:
        return UniformPolicy(workspace)
    if named.kind == RELEASE:
        assert named.release is not None, "found with it"
        maker = _release_maker(named.release, named.delta)
    elif named.kind in (POPULAR, TRANSITIONS):
        maker = _rule_maker(workspace, named.kind)
    else:
        raise ValueError(f"policy {named.name!r}: expected one that can be asked, got {named.kind}")
    return PageMakerPolicy(with_past_items(maker, workspace), workspace, own=config.candidates == "own")


def _release_maker(release: Path, delta: int) -> Recommender:
    state, error = caught_up(CatalogueState.of(load_release(release)), until=delta)
    if error is not None:
        raise error
    return state.recommender


def _rule_maker(workspace: Workspace, rule: str) -> Recommender:
    """Return a page maker that shows the rule's best items, without exploration."""
    bundle = Bundle.load(workspace, None)
    recommend = RecommendConfig(transitions_weight=float(rule == TRANSITIONS), epsilon=0.0, temperature=0.0)
    config = ReleaseConfig(recommend=recommend)
    return page_maker(workspace, catalogue_of(bundle, workspace), bundle.generation, {}, config)


class UniformPolicy:
    """Draws each slot uniformly from the page's candidates; from all items where the log names no candidates.

    Args:
        workspace: Its table `clean_items` names all items.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._all: pa.Array | None = None

    def about(self, batch: LoggedBatch) -> Proposal:
        """See `JudgedPolicy.about`."""
        unnamed = np.flatnonzero(~batch.named_R)
        ids = pa.array([], pa.string())
        if len(unnamed):
            if self._all is None:
                self._all = self._workspace.table("clean_items").read(["item_id"])["item_id"].combine_chunks()
            ids = self._all
        return _Everywhere(unnamed, ids)


class _Everywhere:
    """The same items for all of some pages, each as likely as the others."""

    def __init__(self, rows: Ints, ids: pa.Array) -> None:
        self.rows_X: Ints = np.repeat(rows, len(ids))
        self.ids = ids.take(pa.array(np.tile(np.arange(len(ids)), len(rows))))

    def on(self, batch: LoggedBatch, grid: Grid, names: pa.Array) -> Chooser:
        named = eligible_columns(batch, grid)
        unnamed_R1 = ~batch.named_R[:, None]
        return Opinion(
            policy=Policy(epsilon=1.0, temperature=0.0),
            scores_RK=np.zeros(grid.items_RK.shape),
            eligible_RK=named | (grid.there_RK & unnamed_R1),
        )


def eligible_columns(batch: LoggedBatch, grid: Grid) -> np.ndarray:
    """Return which columns are candidates that the log names, `[R, K]`."""
    named_RK = np.zeros(grid.items_RK.shape, dtype=np.bool_)
    rows = batch.candidate_rows_X
    named_RK[rows, grid.find(rows, batch.candidates_X)] = True
    return named_RK


class TablePolicy:
    """Probabilities by position and item, or by item alone, renormalised over what a page could show.

    Args:
        file: Parquet with `item_id`, `probability` (at least 0) and perhaps `position` (from 0).

    Raises:
        ValueError: It is not such a table.
    """

    def __init__(self, file: str) -> None:
        try:
            table = pq.read_table(file)
        except pa.ArrowInvalid as error:
            raise ValueError(f"policy table {file}: expected a Parquet file; {error}") from error
        missing = [name for name in ("item_id", "probability") if name not in table.column_names]
        if missing:
            raise ValueError(
                f"policy table {file}: expected columns item_id, probability and perhaps position, got "
                f"{', '.join(table.column_names)}"
            )
        probability_Y = np.asarray(table["probability"].cast(pa.float64()))
        if not (np.isfinite(probability_Y) & (probability_Y >= 0)).all():
            wrong = probability_Y[~(probability_Y >= 0) | ~np.isfinite(probability_Y)][0]
            raise ValueError(f"policy table {file}: probability: expected numbers of at least 0, got {wrong}")
        encoded = pc.dictionary_encode(table["item_id"].cast(pa.string()).combine_chunks())
        self._items: pa.Array = encoded.dictionary
        self._by_position = "position" in table.column_names
        position_Y = _positions_of(table, file)
        if encoded.null_count:
            raise ValueError(f"policy table {file}: item_id: expected one in every row, got {encoded.null_count} nulls")
        item_Y = np.asarray(encoded.indices, dtype=np.int64)
        places_Z, counts_Z = np.unique(np.stack([position_Y, item_Y]), axis=1, return_counts=True)
        if len(item_Y) and counts_Z.max() > 1:
            position, item = places_Z[:, counts_Z.argmax()].tolist()
            where = f" at position {position}" if self._by_position else ""
            raise ValueError(
                f"policy table {file}: expected one probability per item{' and position' if where else ''}, got "
                f"{counts_Z.max()} of {self._items[item].as_py()!r}{where}; add them up"
            )
        self._weight_QV = np.zeros((int(position_Y.max(initial=0)) + 1, len(self._items)))
        self._weight_QV[position_Y, item_Y] = probability_Y

    def about(self, batch: LoggedBatch) -> Proposal:
        """See `JudgedPolicy.about`."""
        return _OfTable(np.flatnonzero(~batch.named_R), self._items, self._weights)

    def _weights(self, batch: LoggedBatch, grid: Grid, names: pa.Array) -> Floats:
        place_V = np.asarray(pc.fill_null(pc.index_in(names, value_set=self._items), NOBODY), dtype=np.int64)
        place_RK = np.where(grid.there_RK, place_V[grid.items_RK], NOBODY)
        positions_RP = batch.positions_RP if self._by_position else np.zeros_like(batch.positions_RP)
        known_RP = positions_RP < len(self._weight_QV)
        weight_RPK = self._weight_QV[np.where(known_RP, positions_RP, 0)[:, :, None], place_RK[:, None]]
        allowed_RK = eligible_columns(batch, grid) | ~batch.named_R[:, None]
        weights: Floats = weight_RPK * ((place_RK != NOBODY) & allowed_RK)[:, None] * known_RP[:, :, None]
        return weights


def _positions_of(table: pa.Table, file: str) -> Ints:
    """Return each row's position, 0 where the table names none."""
    if "position" not in table.column_names:
        return np.zeros(table.num_rows, dtype=np.int64)
    try:
        position_Y = np.asarray(pc.fill_null(table["position"].cast(pa.int64()), -1), dtype=np.int64)
    except pa.ArrowInvalid as error:
        raise ValueError(f"policy table {file}: position: expected whole numbers from 0 on; {error}") from error
    if (position_Y < 0).any():
        wrong = table["position"][int(np.argmax(position_Y < 0))].as_py()
        raise ValueError(f"policy table {file}: position: expected whole numbers from 0 on, got {wrong}")
    return position_Y


class _OfTable:
    """A table's items for pages whose candidates the log does not name."""

    def __init__(self, rows: Ints, ids: pa.Array, weights: object) -> None:
        self._everywhere = _Everywhere(rows, ids)
        self.rows_X, self.ids = self._everywhere.rows_X, self._everywhere.ids
        self._weights = weights

    def on(self, batch: LoggedBatch, grid: Grid, names: pa.Array) -> Chooser:
        return Tabled(weights_RPK=self._weights(batch, grid, names))  # type: ignore[operator]
