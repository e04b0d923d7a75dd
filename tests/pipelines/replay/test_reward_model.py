from __future__ import annotations

import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from logged_pages import page, table

from pipelines.replay.config import ReplayConfig
from pipelines.replay.logged import Grid, LoggedBatch, read_batch
from pipelines.replay.placed_sums import Placed, PlacedSums, estimated_propensities, fold_of
from pipelines.replay.reward_model import BoostedModel, NoRewardModel, Situation, TableModel

FOLDS = 3


def _batch(pages: int, clicked: set[int] | None = None, seed: int = 0) -> LoggedBatch:
    """Pages of two of four items, each by its own user; item a is clicked, twice as often in slot 0, or as said."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(pages):
        items = rng.permutation(["a", "b", "c", "d"])[:2].tolist()
        hands = rng.random(2)
        events = [
            "click" if (item == "a" and hand < 0.8 / (slot + 1)) or (clicked and number in clicked) else "impression"
            for slot, (item, hand) in enumerate(zip(items, hands, strict=True))
        ]
        rows.append(page(number, items, user_id=f"u{number}", events=events))
    return read_batch(table(rows), ReplayConfig())


def _situation(batch: LoggedBatch) -> tuple[Situation, np.ndarray]:
    """All four items are columns; the only signal is the alphabet."""
    size, items = len(batch), len(batch.items)
    grid = Grid([np.repeat(np.arange(size), items)], [np.tile(np.arange(items), size)], size)
    letters = np.array([ord(name) for name in batch.items.to_pylist()], dtype=np.float64)
    situation = Situation(
        names=batch.items,
        items_RK=grid.items_RK,
        there_RK=grid.there_RK,
        positions_RP=batch.positions_RP,
        folds_R=fold_of(batch.users_R, FOLDS),
        signals=[letters[grid.items_RK]],
    )
    return situation, batch.shown_RP


def _sums(batch: LoggedBatch) -> PlacedSums:
    return PlacedSums([Placed.of_batch(batch, FOLDS)], FOLDS)


def _boosted(batch: LoggedBatch) -> BoostedModel:
    situation, choice_RP = _situation(batch)
    return BoostedModel(_sums(batch), [situation], [choice_RP], [batch.rewards_RP])


def test_a_position_of_nine_digits_takes_no_room() -> None:
    last = 999_999_999
    batch = read_batch(table([page(0, ["a"]), page(4, ["a"], context=[("position", str(last))])]), ReplayConfig())
    tracemalloc.start()
    shown, _ = _sums(batch).of_positions(np.array([0, 7, last]), None)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (shown.tolist(), most < 1 << 20) == ([1, 0, 1], True)


def test_rates_of_positions_and_items_by_hand() -> None:
    rows = [
        page(0, ["a"], events=["click"]),
        page(4, ["a"]),
        page(8, ["b"]),
        page(12, ["a"], events=["click"], context=[("position", "1")]),
    ]
    batch = read_batch(table(rows), ReplayConfig())
    size, names = len(batch), batch.items
    situation = Situation(
        names=names,
        items_RK=np.tile(np.arange(len(names)), (size, 1)),
        there_RK=np.ones((size, len(names)), dtype=bool),
        positions_RP=batch.positions_RP,
        folds_R=fold_of(batch.users_R, FOLDS),
        signals=[],
    )
    model = TableModel(_sums(batch), prior_reward=0.05, prior_shows=10.0, cross_fitted=False)
    predicted = model.predict(situation)
    a, b = names.to_pylist().index("a"), names.to_pylist().index("b")
    assert predicted[0, 0, a] == pytest.approx((1 + 0.05) / (2 + 10))
    assert predicted[0, 0, b] == pytest.approx((0 + 0.05) / (1 + 10))
    assert predicted[3, 0, a] == pytest.approx((1 + 0.05) / (1 + 10))
    # all pages are of one user: without them only the prior is left, 2 clicks in 4 shows
    assert TableModel(_sums(batch)).predict(situation) == pytest.approx(np.full((4, 1, 2), 0.5))


@pytest.mark.parametrize("kind", ["table", "boosted"])
def test_nobody_is_judged_by_a_model_that_saw_them(kind: str) -> None:
    plain = _batch(600)
    fold_R = fold_of(plain.users_R, FOLDS)
    mine = set(np.flatnonzero(fold_R == 1).tolist())
    changed = _batch(600, clicked=mine)
    assert (changed.rewards_RP != plain.rewards_RP).any()
    situation, _ = _situation(plain)
    before, after = (
        (TableModel(_sums(batch)) if kind == "table" else _boosted(batch)).predict(situation)
        for batch in (plain, changed)
    )
    if kind == "boosted":
        assert (before[fold_R == 1] == after[fold_R == 1]).all()
    else:  # the prior is that of all
        assert np.abs(before[fold_R == 1] - after[fold_R == 1]).max() < 0.1
    assert (before[fold_R != 1] != after[fold_R != 1]).any()


def test_trees_find_what_is_worth_showing_and_where() -> None:
    batch = _batch(4000)
    situation, _ = _situation(batch)
    predicted = _boosted(batch).predict(situation)
    a, b = (batch.items.to_pylist().index(name) for name in "ab")
    assert predicted[:, 0, a].mean() == pytest.approx(0.8, abs=0.06)
    assert predicted[:, 1, a].mean() == pytest.approx(0.4, abs=0.06)
    assert np.abs(predicted[:, :, b]).max() < 0.06


def test_few_pages_teach_a_mean_only() -> None:
    batch = _batch(40)
    situation, _ = _situation(batch)
    predicted = _boosted(batch).predict(situation)
    assert np.ptp(predicted[0, 0]) == 0


def test_a_signal_that_nobody_gives_is_no_mistake() -> None:
    batch = _batch(600)
    situation, choice_RP = _situation(batch)
    situation.signals[0][:] = np.nan
    model = BoostedModel(_sums(batch), [situation], [choice_RP], [batch.rewards_RP])
    assert np.isfinite(model.predict(situation)).all()


def test_without_a_model_nothing_is_expected() -> None:
    situation, _ = _situation(_batch(5))
    predicted = NoRewardModel().predict(situation)
    assert predicted.shape == (5, 2, 4)
    assert not predicted.any()


def test_estimated_propensities_are_smoothed_rates_of_other_users() -> None:
    batch = _batch(3000)
    sums = _sums(batch)
    estimated = estimated_propensities(sums, batch)
    assert estimated == pytest.approx(np.full(estimated.shape, 0.25), abs=0.03)
    row = 0
    others = np.flatnonzero(fold_of(batch.users_R, FOLDS) != fold_of(batch.users_R, FOLDS)[row])
    shown = (batch.shown_RP[others, 0] == batch.shown_RP[row, 0]).sum()
    assert estimated[row, 0] == pytest.approx((shown + 1) / (len(others) + 4))


def test_sums_of_parts_are_sums_of_all() -> None:
    batch = _batch(50)
    whole = Placed.of_batch(batch, FOLDS)
    halves = [
        Placed(
            ids=whole.ids.take(pa.array(rows)),
            positions_X=whole.positions_X[rows],
            folds_X=whole.folds_X[rows],
            rewards_X=whole.rewards_X[rows],
        )
        for rows in np.array_split(np.arange(len(whole.ids)), 2)
    ]
    one, two = PlacedSums([whole], FOLDS), PlacedSums(halves, FOLDS)
    assert one.items == two.items
    assert (one.shown_YF == two.shown_YF).all()
    assert one.shown_YF.sum() == 100
