"""Predictions of what items earn in slots, for DM and the doubly robust estimators; cross-fitted by user.

Nobody's pages are judged by a model that saw them: a fold of users is judged by the model of the other folds.
Legend: `R` pages, `P` slots, `K` columns, `X` shown items, `F` features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa
from sklearn.ensemble import HistGradientBoostingRegressor

from pipelines.replay.logged import NOBODY
from pipelines.replay.placed_sums import PlacedSums
from pipelines.replay.rounds import Bools, Floats, Ints

_EQUAL_SHOWS = 50.0
"""A position's own rate counts as much as that of all positions when it has so many shows."""
_LEAST_ROWS = 200
"""With fewer shown items, a fold's mean is all that is learned."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Situation:
    """What a reward model may look at: what was known before anybody answered.

    Attributes:
        names: Item ids.
        items_RK: Each column's item among them.
        there_RK: Which columns hold an item.
        positions_RP: Where each slot stands.
        folds_R: The fold of each page's user.
        signals: Per policy, what it says of each column, `[R, K]`, nan where it says nothing.
    """

    names: pa.Array
    items_RK: Ints
    there_RK: Bools
    positions_RP: Ints
    folds_R: Ints
    signals: Sequence[Floats]


class RewardModel(Protocol):
    """Anything that predicts the reward of items in slots."""

    def predict(self, situation: Situation) -> Floats:
        """Return the predicted reward of every column in every slot, `[R, P, K]`."""
        ...


class NoRewardModel:
    """Predicts 0: DM is 0, DR is IPS."""

    def predict(self, situation: Situation) -> Floats:
        """See `RewardModel.predict`."""
        return np.zeros((*situation.positions_RP.shape, situation.items_RK.shape[1]))


class TableModel:
    """Smoothed rates by position and item: `(rewards + prior_reward) / (shows + prior_shows)`.

    Args:
        sums: What was shown and earned.
        prior_reward: Reward of the shows added, default that of as many average shows.
        prior_shows: Shows added.
        cross_fitted: Whether a user's own fold is left out.
    """

    def __init__(
        self,
        sums: PlacedSums,
        prior_reward: float | None = None,
        prior_shows: float = 10.0,
        *,
        cross_fitted: bool = True,
    ) -> None:
        mean = float(sums.reward_YF.sum() / max(sums.shown_YF.sum(), 1.0))
        self._sums, self._shows, self._cross_fitted = sums, prior_shows, cross_fitted
        self._reward = mean * prior_shows if prior_reward is None else prior_reward

    def predict(self, situation: Situation) -> Floats:
        """See `RewardModel.predict`."""
        number_V = self._sums.numbers(situation.names)
        items_RK = np.where(situation.there_RK, number_V[situation.items_RK], -1)
        folds_R11 = situation.folds_R[:, None, None] if self._cross_fitted else None
        shows, rewards = self._sums.elsewhere(situation.positions_RP[:, :, None], items_RK[:, None], folds_R11)
        predicted: Floats = (rewards + self._reward) / (shows + self._shows)
        return predicted * situation.there_RK[:, None]


class BoostedModel:
    """An item's worth by gradient-boosted trees, times how much is seen at the position.

    `q(position, item) = theta(position) gamma(item, page)`: the position-based click model, in which looking does not
    depend on what is looked at (Richardson, Dominowska and Ragno, WWW 2007). theta is the smoothed rate of a position
    over that of all; gamma is fitted by least squares to the reward, `sum (reward - theta gamma)^2`.

    Args:
        sums: What was shown and earned, for rates of positions and items.
        situations: Pages to learn from, in parts.
        choices: The column of each shown item, `[R, P]`, -1 for none, per part.
        rewards: What it earned, likewise.
        seed: Of the trees.
    """

    def __init__(
        self,
        sums: PlacedSums,
        situations: Sequence[Situation],
        choices: Sequence[Ints],
        rewards: Sequence[Floats],
        seed: int = 0,
    ) -> None:
        self._sums = sums
        parts = [self._shown(*part) for part in zip(situations, choices, rewards, strict=True)]
        said_XF, items_X, positions_X, folds_X, rewards_X = (np.concatenate(part) for part in zip(*parts, strict=True))
        self._range = float(rewards_X.min(initial=0.0)), float(rewards_X.max(initial=0.0))
        self._folds: list[_Fold] = []
        for fold in range(sums.folds):
            others = folds_X != fold
            theta_X = self._theta(positions_X[others], np.full(int(others.sum()), fold))
            # rates of items leave out both who is learned from and who is to be judged
            rates_XF = self._rates(items_X[others], folds_X[others], fold)
            features_XF = np.concatenate([said_XF[others], rates_XF], axis=1)
            self._folds.append(_Fold(features_XF, theta_X, rewards_X[others], seed))

    def predict(self, situation: Situation) -> Floats:
        """See `RewardModel.predict`."""
        gamma_RK = np.zeros(situation.items_RK.shape)
        rates_RKF = self._rates(self._numbers(situation), situation.folds_R[:, None], None)
        features_RKF = np.concatenate([_said(situation), rates_RKF], axis=2)
        for fold, model in enumerate(self._folds):
            rows = np.flatnonzero(situation.folds_R == fold)
            row, column = np.nonzero(situation.there_RK[rows])
            if len(row):
                gamma_RK[rows[row], column] = model.predict(features_RKF[rows[row], column])
        folds_RP = np.broadcast_to(situation.folds_R[:, None], situation.positions_RP.shape)
        theta_RP = self._theta(situation.positions_RP, folds_RP)
        return np.clip(theta_RP[:, :, None] * gamma_RK[:, None], *self._range)

    def _theta(self, positions: Ints, folds: Ints) -> Floats:
        """Return how much more than elsewhere is earned at positions, by users of other folds."""
        shown, rewards = self._sums.of_positions(positions, folds)
        all_shown, all_rewards = (
            values_YF.sum() - values_YF.sum(axis=0)[folds] for values_YF in (self._sums.shown_YF, self._sums.reward_YF)
        )
        mean = all_rewards / np.maximum(all_shown, 1.0)
        rate = (rewards + _EQUAL_SHOWS * mean) / (shown + _EQUAL_SHOWS)
        theta: Floats = np.divide(rate, mean, out=np.ones(np.shape(rate)), where=mean != 0)
        return np.clip(theta, 0.05, 20.0)

    def _numbers(self, situation: Situation) -> Ints:
        return np.where(situation.there_RK, self._sums.numbers(situation.names)[situation.items_RK], NOBODY)

    def _rates(self, items: Ints, folds: Ints, without: int | None) -> Floats:
        """Return an item's rate and how often it was shown, of users of other folds; of another one, too, if named."""
        shown, rewards = self._sums.anywhere(items, folds)
        if without is not None:
            # own and other fold are never the same: who is judged is not learned from
            whole, earned = self._sums.anywhere(items, None)
            shown_but, rewards_but = self._sums.anywhere(items, np.full(np.shape(items), without))
            shown, rewards = shown - (whole - shown_but), rewards - (earned - rewards_but)
        rate = np.divide(rewards, shown, out=np.full(np.shape(shown), np.nan), where=shown > 0)
        return np.stack([rate, np.log1p(shown)], axis=-1)

    def _shown(
        self, situation: Situation, choice_RP: Ints, rewards_RP: Floats
    ) -> tuple[Floats, Ints, Ints, Ints, Floats]:
        row, slot = np.nonzero(choice_RP >= 0)
        column = choice_RP[row, slot]
        return (
            _said(situation)[row, column],
            self._numbers(situation)[row, column],
            situation.positions_RP[row, slot],
            situation.folds_R[row],
            rewards_RP[row, slot],
        )


def _said(situation: Situation) -> Floats:
    """Return what policies say of columns, and how they rank them, `[R, K, F]`."""
    said = [one for signal in situation.signals for one in (signal, _ranks(signal))]
    return np.stack(said, axis=2) if said else np.zeros((*situation.items_RK.shape, 0))


class _Fold:
    """The model of all users but those of one fold."""

    def __init__(self, features_XF: Floats, theta_X: Floats, rewards_X: Floats, seed: int) -> None:
        size = len(rewards_X)
        self._mean = float((theta_X * rewards_X).sum() / max((theta_X**2).sum(), 1e-12))
        self._trees: HistGradientBoostingRegressor | None = None
        if size >= _LEAST_ROWS and np.ptp(rewards_X) > 0:
            trees = HistGradientBoostingRegressor(
                max_iter=60,
                max_leaf_nodes=15,
                min_samples_leaf=int(np.clip(size // 100, 20, 200)),
                early_stopping=False,
                random_state=seed,
            )
            silent_F = np.isnan(features_XF).all(axis=0)  # which binning does not expect
            features_XF = np.where(silent_F, 0.0, features_XF)
            self._trees = trees.fit(features_XF, rewards_X / theta_X, sample_weight=theta_X**2)

    def predict(self, features_XF: Floats) -> Floats:
        if self._trees is None:
            return np.full(len(features_XF), self._mean)
        predicted_X: Floats = self._trees.predict(features_XF)
        return predicted_X


def _ranks(signal_RK: Floats) -> Floats:
    """Return the place of each column by a signal, best 0, nan where it says nothing."""
    order_RK = np.argsort(-np.where(np.isnan(signal_RK), -np.inf, signal_RK), axis=1, kind="stable")
    return np.where(np.isnan(signal_RK), np.nan, np.argsort(order_RK, axis=1))
