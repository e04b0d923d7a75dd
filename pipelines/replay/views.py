"""Logged pages with columns for all items that anybody might show, and what everybody makes of them.

Legend: `R` pages, `P` slots, `K` columns of a page, `X` (page, item) pairs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.recommend.policy import NO_CHOICE, Policy
from pipelines.replay.choosers import Chooser, Opinion, Tabled
from pipelines.replay.logged import Grid, LoggedBatch
from pipelines.replay.named import NamedPolicy
from pipelines.replay.placed_sums import fold_of
from pipelines.replay.policies import Proposal, eligible_columns
from pipelines.replay.reward_model import Situation
from pipelines.replay.rounds import Floats, Ints

_CELLS = 1_000_000
"""Slots x columns of the pages judged together: some hundred MB."""
_FEWEST_COLUMNS = 100
"""Taken for the columns of pages whose candidates the log does not name, when they are cut into parts."""
_DRAWN_BY = ("policy", "epsilon", "temperature")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """Pages that one policy made.

    Attributes:
        batch: The pages.
        grid: Their columns.
        names: Ids of the grid's items.
        choice_RP: Column of each shown item, `NO_CHOICE` after a page's end.
        choosers: What each compared policy would show, but for the logging policy.
        logger: What the logging policy would show; None where the log does not tell.
        situation: What the reward model may look at.
    """

    batch: LoggedBatch
    grid: Grid
    names: pa.Array
    choice_RP: Ints
    choosers: Mapping[NamedPolicy, Chooser]
    logger: Opinion | None
    situation: Situation


def parted(pages: pa.Table) -> list[Ints]:
    """Return rows of pages in parts that were drawn by one policy each and can be judged together."""
    named = pc.greater(pc.fill_null(pc.list_value_length(pages["candidate_scores"]), 0), 0)
    keys = pages.select(list(_DRAWN_BY)).append_column("named", named)
    keys = keys.append_column("row", pa.array(np.arange(len(pages))))
    groups = keys.group_by([*_DRAWN_BY, "named"], use_threads=False).aggregate([("row", "list")])
    columns_R = np.asarray(pc.fill_null(pc.list_value_length(pages["candidates"]), 0))
    slots = max(pc.max(pc.list_value_length(pages["items"])).as_py() or 1, 1)
    parts: list[Ints] = []
    for rows in groups["row_list"].to_pylist():
        mine = np.array(rows, dtype=np.int64)
        size = max(1, _CELLS // (slots * max(int(columns_R[mine].max()), _FEWEST_COLUMNS)))
        parts += [mine[start : start + size] for start in range(0, len(mine), size)]
    return parts


def view_of(
    batch: LoggedBatch, about: Mapping[NamedPolicy, Proposal], compared: Sequence[NamedPolicy], folds: int
) -> View:
    """Bring together what policies say about pages.

    Args:
        batch: Pages of one part (`parted`).
        about: What each policy that can be asked said.
        compared: The compared policies, in the order in which the reward model hears them.
        folds: Folds of users.
    """
    # the ids of the batch are distinct and come first: they keep their numbers
    names = pc.unique(pa.chunked_array([batch.items, *(one.ids for one in about.values())], pa.string()))
    row_X, slot_X = np.nonzero(batch.there_RP)
    shown_X = batch.shown_RP[row_X, slot_X]
    proposed = [np.asarray(pc.index_in(one.ids, value_set=names), dtype=np.int64) for one in about.values()]
    grid = Grid(
        [batch.candidate_rows_X, row_X, *(one.rows_X for one in about.values())],
        [batch.candidates_X, shown_X, *proposed],
        len(batch),
    )
    choice_RP = np.full(batch.shown_RP.shape, NO_CHOICE)
    choice_RP[row_X, slot_X] = grid.find(row_X, shown_X)
    choosers = {named: one.on(batch, grid, names) for named, one in about.items()}
    logger = logger_of(batch, grid)
    signals = [_signal(one, grid) for one in (logger, *(choosers.get(named) for named in compared))]
    situation = Situation(
        names=names,
        items_RK=grid.items_RK,
        there_RK=grid.there_RK,
        positions_RP=batch.positions_RP,
        folds_R=fold_of(batch.users_R, folds),
        signals=signals,
    )
    return View(
        batch=batch,
        grid=grid,
        names=names,
        choice_RP=choice_RP,
        choosers=choosers,
        logger=logger,
        situation=situation,
    )


def logger_of(batch: LoggedBatch, grid: Grid) -> Opinion | None:
    """Return the policy that drew the pages, one for all of them; None where the log does not tell.

    It does not where candidates, their scores, epsilon or temperature are lacking, nor where pages were drawn with
    caps or diversity, which look at more than the log holds.
    """
    first = {name: batch.pages.column(name)[0].as_py() for name in _DRAWN_BY}
    looks_at_more = "<=" in (first["policy"] or "") or "diversity" in (first["policy"] or "")
    known = batch.named_R.all() and np.isfinite(batch.candidate_scores_X).all()
    if looks_at_more or not known or first["epsilon"] is None or first["temperature"] is None:
        return None
    scores_RK = np.zeros(grid.items_RK.shape)
    scores_RK[batch.candidate_rows_X, grid.find(batch.candidate_rows_X, batch.candidates_X)] = batch.candidate_scores_X
    policy = Policy(epsilon=first["epsilon"], temperature=first["temperature"])
    return Opinion(policy=policy, scores_RK=scores_RK, eligible_RK=eligible_columns(batch, grid))


def _signal(chooser: Chooser | None, grid: Grid) -> Floats:
    """Return what a policy says of each column, nan where it says nothing."""
    if isinstance(chooser, Opinion):
        return np.where(chooser.eligible_RK, chooser.scores_RK, np.nan)
    if isinstance(chooser, Tabled):
        return chooser.weights_RPK[:, 0]
    return np.full(grid.items_RK.shape, np.nan)
