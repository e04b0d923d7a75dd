"""A page maker (a release, a rule) asked about pages of the past, by the code that serves.

Requests are made anew as of their page's time: histories and user features strictly before it, item features of that
day, the page's own context. Of a page whose candidates the log names, the page maker orders these: they take the place
of what is available now, all its other rules hold.
Legend: `R` pages, `B` some of them, `F` candidates of the page maker, `K` columns, `X` (page, item) pairs, `N` items of
the catalogue.
"""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.columns import Columns
from features.definitions import PAGE_FEATURES, features_of
from features.definitions import USER as USER_FEATURES
from features.schemas import CLEAN_TABLES, STRING_MAP
from features.values import from_table, take_or_default
from features.workspace import Workspace
from models.inputs.items import attribute_columns
from models.inputs.requests import CONTEXT, USER
from models.recommend.eligibility import Eligibility, ItemMask
from models.recommend.interface import NO_ITEM
from models.recommend.recommender import Recommender
from models.recommend.requests import PastRequests
from models.recommend.rules import Filters
from pipelines.replay.choosers import Chooser, Opinion
from pipelines.replay.logged import Grid, LoggedBatch
from pipelines.replay.rounds import Floats, Ints

MAX_HISTORY = 200
"""Newest entries of a history."""
_PAGES, _MASK_BYTES = 256, 64_000_000
"""Pages asked about at a time, and what their masks over the catalogue may take."""


class PageMakerPolicy:
    """A page maker that can be asked about logged pages (`pipelines.replay.policies.JudgedPolicy`).

    Args:
        maker: The page maker, with item features of the past.
        workspace: Holds histories and what was known of users.
        own: Whether it brings its own candidates even where the log names some.
    """

    def __init__(self, maker: Recommender, workspace: Workspace, *, own: bool) -> None:
        self._maker, self._own = maker, own
        self._past = PastRequests(workspace.table("sequences").dataset(), maker.catalogue)
        self._known = KnownThen(workspace)

    def about(self, batch: LoggedBatch) -> ItsCandidates:
        """See `JudgedPolicy.about`."""
        size = max(1, min(_PAGES, _MASK_BYTES // len(self._maker.catalogue)))
        rows = np.arange(len(batch))
        named_R = np.zeros(len(batch), dtype=np.bool_) if self._own else batch.named_R
        parts = [
            self._ranked(batch, part, bool(named))
            for named in (False, True)
            for part in _parts(rows[named_R == named], size)
        ]
        return ItsCandidates(self._maker, parts)

    def _ranked(self, batch: LoggedBatch, rows: Ints, named: bool) -> tuple[Ints, Ints, Floats]:
        """Return page, item number and score of the candidates of some pages."""
        requests = self._past.at(batch.column("user_id").take(pa.array(rows)), batch.times_R[rows], MAX_HISTORY)
        requests = dataclasses.replace(requests, columns=self._known.columns(batch, rows))
        slots = batch.shown_RP.shape[1]
        if named:
            ranked = self._maker.ranked(requests, slots, eligible=self._eligible(batch, rows))
        else:
            ranked = self._maker.ranked(requests, slots, _filters(batch, rows))
        row_X, place_X = np.nonzero(ranked.fused.items_BF != NO_ITEM)
        return (
            rows[row_X],
            ranked.fused.items_BF[row_X, place_X],
            ranked.fused.scores_BF[row_X, place_X].astype(np.float64),
        )

    def _eligible(self, batch: LoggedBatch, rows: Ints) -> Eligibility:
        """Return a mask for each page: the candidates that the log names."""
        number_V = self._maker.catalogue.numbers(batch.items)
        place_R = np.full(len(batch), -1)
        place_R[rows] = np.arange(len(rows))
        mine = place_R[batch.candidate_rows_X] >= 0
        row_X, number_X = place_R[batch.candidate_rows_X[mine]], number_V[batch.candidates_X[mine]]
        masks_BN = np.zeros((len(rows), len(self._maker.catalogue)), dtype=np.bool_)
        masks_BN[row_X[number_X >= 0], number_X[number_X >= 0]] = True
        return Eligibility(masks=tuple(ItemMask(mask_N) for mask_N in masks_BN), row_B=np.arange(len(rows)))


class ItsCandidates:
    """The candidates of a page maker with their final scores (`pipelines.replay.policies.Proposal`)."""

    def __init__(self, maker: Recommender, parts: list[tuple[Ints, Ints, Floats]]) -> None:
        self._maker = maker
        self.rows_X, self._numbers_X, self._scores_X = (np.concatenate(part) for part in zip(*parts, strict=True))
        self.ids: pa.Array = maker.catalogue.item_ids.take(pa.array(self._numbers_X))

    def on(self, batch: LoggedBatch, grid: Grid, names: pa.Array) -> Chooser:
        """See `Proposal.on`."""
        columns_X = grid.find(self.rows_X, np.asarray(pc.index_in(self.ids, value_set=names), dtype=np.int64))
        shape = grid.items_RK.shape
        scores_RK, numbers_RK = np.zeros(shape), np.full(shape, NO_ITEM)
        scores_RK[self.rows_X, columns_X], numbers_RK[self.rows_X, columns_X] = self._scores_X, self._numbers_X
        groups_RKG, codes_RKL = self._maker.traits(numbers_RK)
        return Opinion(
            policy=self._maker.policy,
            scores_RK=scores_RK,
            eligible_RK=numbers_RK != NO_ITEM,
            groups_RKG=groups_RKG,
            codes_RKL=codes_RKL,
        )


class KnownThen:
    """What was known of users at their pages, beside their histories.

    Args:
        workspace: Perhaps with the tables `page_features` and `clean_users`.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        users = workspace.table(CLEAN_TABLES["users"])
        self._users = users.read() if users.exists() else None
        self._span: tuple[int, int] | None = None
        self._features: pa.Table | None = None

    def columns(self, batch: LoggedBatch, rows: Ints) -> Columns:
        """Return user features, attributes and contexts of some pages; what is not known is left out."""
        chosen = pa.array(rows)
        ids, users = batch.column("request_id").take(chosen), batch.column("user_id").take(chosen)
        columns = self._page_features(batch, ids)
        attributes = pa.nulls(len(rows), STRING_MAP)
        if self._users is not None:
            place = pc.index_in(users, value_set=self._users["user_id"].combine_chunks())
            attributes = self._users["attributes"].combine_chunks().take(place)
        contexts = batch.column("context").take(chosen)
        named = {**attribute_columns(attributes, USER), **attribute_columns(contexts, CONTEXT)}
        return columns.with_columns(Columns(rows=len(rows), ids=named))

    def _page_features(self, batch: LoggedBatch, ids: pa.Array) -> Columns:
        table = self._workspace.table(PAGE_FEATURES)
        if not table.exists():
            return Columns(rows=len(ids))
        span = (int(batch.times_R.min()), int(batch.times_R.max()))
        chosen = features_of(USER_FEATURES)
        if self._features is None or self._span != span:
            time = pc.field("timestamp")
            bounds = pa.array(span, pa.int64()).cast(batch.pages.schema.field("timestamp").type)
            names = ["request_id", *(feature.name for feature in chosen)]
            self._features = table.read(names, filter=(time >= bounds[0]) & (time <= bounds[1])).combine_chunks()
            self._span = span
        if not self._features.num_rows:
            place = np.full(len(ids), -1, dtype=np.int64)
        else:
            known = self._features["request_id"].combine_chunks()
            place = np.asarray(pc.fill_null(pc.index_in(ids, value_set=known), -1), dtype=np.int64)
        return take_or_default(from_table(self._features, chosen), place, chosen)


def _filters(batch: LoggedBatch, rows: Ints) -> list[Filters | None]:
    said = batch.column("filters").take(pa.array(rows)).to_pylist()
    return [None if text is None else Filters.from_document(json.loads(text)) for text in said]


def _parts(rows: Ints, size: int) -> list[Ints]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
