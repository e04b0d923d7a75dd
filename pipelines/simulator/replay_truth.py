"""What a replay should have found: the true difference of two policies on the very pages, by the oracle's secret state.

In a simulated marketplace a page's reward is a sum over its slots of what the slot's item earns there, and the oracle
knows that of every candidate. Its mean over what a policy would put into the slot is exact: no reward is drawn.
Legend: `R` pages, `P` slots, `K` columns of a page.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from features.workspace import Workspace
from kernels.hashing import hash_strings
from pipelines.batch.arrow import milliseconds
from pipelines.replay.config import ReplayConfig
from pipelines.replay.job import pages_of, pages_to_judge
from pipelines.replay.judging import Judge
from pipelines.replay.named import named_policy
from pipelines.replay.preparing import prepare
from pipelines.replay.reward_model import Situation
from pipelines.replay.rounds import Floats
from pipelines.replay.views import parted
from pipelines.simulator.behaviour import NO_ITEM, answer_probabilities
from pipelines.simulator.oracle import ORACLE_FILE, Oracle
from pipelines.simulator.tables import item_ids, start_ms, user_ids

MOST_PAGES = 2000
"""Pages looked at: of more, an even sample."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrueDifference:
    """Expected reward per page.

    Attributes:
        champion: Of policy A.
        challenger: Of policy B.
        half_width: Of the 95 % interval of the difference; 0 where every page was looked at.
        pages: So many were looked at.
    """

    champion: float
    challenger: float
    half_width: float
    pages: int

    @property
    def difference(self) -> float:
        """B - A."""
        return self.challenger - self.champion


class Truth:
    """A reward model that knows (`pipelines.replay.reward_model.RewardModel`).

    Args:
        oracle: The marketplace's.
        reward: Weights, as in `ReplayConfig.reward`.
        pages: Those that it is then asked about.
    """

    def __init__(self, oracle: Oracle, reward: Mapping[str, float], pages: pa.Table) -> None:
        self._oracle, self._reward = oracle, reward
        number = {name: place for place, name in enumerate(user_ids(oracle.world))}
        users_R = np.array([number[name] for name in pages.column("user_id").to_pylist()], dtype=np.int64)
        times_R = milliseconds(pages.column("timestamp")) - start_ms(oracle.world.config)
        self._moments = oracle.moments(users_R, times_R)
        self._item_number = {name: place for place, name in enumerate(item_ids(oracle.world))}

    def predict(self, situation: Situation) -> Floats:
        """Return what every column would earn in every slot, `[R, P, K]`."""
        number_V = np.array([self._item_number[name] for name in situation.names.to_pylist()], dtype=np.int64)
        items_RK = np.where(situation.there_RK, number_V[situation.items_RK], 0)
        answers = answer_probabilities(self._oracle.world, self._moments, items_RK)
        weight, price_RK = self._reward.get, self._oracle.world.items.price_N[items_RK]
        bought_RK = weight("purchase", 0.0) + weight("value", 0.0) * price_RK
        worth_RK = answers.click * (
            weight("click", 0.0) + answers.cart * (weight("cart", 0.0) + answers.purchase * bought_RK)
        )
        # whether a slot is looked at depends on the slot and the user alone: any item there will do
        slots_RP = np.where(situation.positions_RP >= 0, 0, NO_ITEM)
        seen_RP = answer_probabilities(self._oracle.world, self._moments, slots_RP).examine
        return np.asarray(seen_RP[:, :, None] * (worth_RK * situation.there_RK)[:, None])


def true_difference(
    workspace: Workspace, config: ReplayConfig, *, tracking_uri: str | None = None, most: int = MOST_PAGES
) -> TrueDifference:
    """Return what a replay with these options should find.

    Args:
        workspace: Of a simulation; holds the oracle's secret state.
        config: Of the replay; its unit must be the page, and nobody dislikes anything in a simulation.
        tracking_uri: See `models.registry.Registry`.
        most: Pages to look at.
    """
    oracle = Oracle.load(workspace.local_path(*ORACLE_FILE))
    config = dataclasses.replace(config, reward_model="none")
    policies = [named_policy(name, workspace, tracking_uri) for name in (config.champion, config.challenger)]
    logs = pages_to_judge(workspace, config, policies)
    pages = pa.concat_tables(pages_of(logs))
    if sampled := pages.num_rows > most:
        order = np.argsort(hash_strings(pages.column("request_id").combine_chunks(), salt=2))
        pages = pages.take(pa.array(np.sort(order[:most])))
    job = prepare(workspace, config, [pages], tracking_uri=tracking_uri)
    judge = Judge(job)
    found = []
    for rows in parted(pages):
        part = pages.take(pa.array(rows))
        judge.job = dataclasses.replace(job, reward_model=Truth(oracle, config.reward, part))
        rounds = judge.rounds(part)
        found.append(np.stack([policy.expected_RP.sum(axis=1) for policy in (rounds.champion, rounds.challenger)]))
    values_2R = np.concatenate(found, axis=1)
    error = float(np.std(values_2R[1] - values_2R[0], ddof=1)) / np.sqrt(values_2R.shape[1]) if sampled else 0.0
    return TrueDifference(
        champion=float(values_2R[0].mean()),
        challenger=float(values_2R[1].mean()),
        half_width=1.96 * error,
        pages=values_2R.shape[1],
    )
