"""What champion, challenger and whoever made the logs think of logged pages: rows of a log become `Rounds`.

A `Judge` turns pages into rounds (workers, page by page alike, in whatever parts they come), by what
`pipelines.replay.preparing` found out before.

Chances of the logging policy are those that were logged. Its marginals follow from the candidates, their scores,
epsilon and temperature in the log; where a page lacks some of them, nobody knows them, and all policies' weights by
position fall back to the chances given the slots before.
Legend: `R` pages, `P` slots, `K` columns, `X` (page, item) pairs.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pyarrow as pa

from features.workspace import Workspace
from kernels.hashing import combine_hashes, hash_integers, hash_strings
from pipelines.replay.calibrating import count_shown
from pipelines.replay.calibration import Calibration
from pipelines.replay.choosers import Chooser
from pipelines.replay.config import ReplayConfig
from pipelines.replay.item_groups import ItemGroups
from pipelines.replay.logged import NOBODY, LoggedBatch, read_batch
from pipelines.replay.marginals import Asked, Marginals, are_exact, conditionals, page_marginals
from pipelines.replay.named import LOGGED, NamedPolicy
from pipelines.replay.placed_sums import PlacedSums, estimated_propensities
from pipelines.replay.policies import JudgedPolicy, Proposal, eligible_columns, open_policy, table_versions
from pipelines.replay.pseudo_inverse import PSEUDO_INVERSE, fits, pseudo_inverse_weights
from pipelines.replay.remembered import Memory
from pipelines.replay.reward_model import RewardModel, Situation
from pipelines.replay.rounds import Bools, Chances, Floats, Ints, Rounds, Target, concatenated
from pipelines.replay.skew import Skew
from pipelines.replay.views import View, parted, view_of

_MEMORY = Memory()
_LOGGER_SALT, _TARGET_SALT, _REJECTION_SALT, _PAIRS_SALT = 11, 12, 13, 14


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class JudgeJob:
    """All that a worker must know to judge pages; picklable.

    Attributes:
        config: What is compared.
        uri: The workspace.
        champion, challenger: The policies.
        sums: What the log shows and earns, of the pages that were looked at.
        reward_model: Fitted.
        estimate_propensities: Whether the log has none.
    """

    config: ReplayConfig
    uri: str
    champion: NamedPolicy
    challenger: NamedPolicy
    sums: PlacedSums
    reward_model: RewardModel
    estimate_propensities: bool


class Judge:
    """Judges logged pages.

    Args:
        job: From `pipelines.replay.preparing.prepare`.

    Attributes:
        skew: About all pages judged so far.
        calibration: Likewise.
    """

    def __init__(self, job: JudgeJob) -> None:
        self.job = job
        self.skew, self.calibration = Skew(), Calibration()
        self._workspace = Workspace(job.uri)
        self._groups = ItemGroups(self._workspace, job.config.clusters)
        self._policies: dict[NamedPolicy, JudgedPolicy] = {}
        self._setting = (job.uri, job.config.candidates, *table_versions(self._workspace))

    def rounds(self, pages: pa.Table) -> Rounds:
        """Return what all three policies think of pages, in their order.

        Args:
            pages: At least one row of the schema `features.schemas.PAGES`.
        """
        rows = parted(pages)
        judged = concatenated([self._part(pages.take(pa.array(part))) for part in rows])
        return judged.take(np.argsort(np.concatenate(rows)))

    def situation(self, pages: pa.Table) -> tuple[Situation, Ints, Floats]:
        """Return what the reward model may look at, the column of each shown item and what it earned."""
        view = self._view(pages)
        return view.situation, view.choice_RP, view.batch.rewards_RP

    def _about(self, named: NamedPolicy, batch: LoggedBatch) -> Proposal:
        """Ask a policy about pages; it is loaded when it is first asked."""
        if named not in self._policies:
            self._policies[named] = open_policy(named, self._workspace, self.job.config)
        return self._policies[named].about(batch)

    def _view(self, pages: pa.Table) -> View:
        batch = read_batch(pages, self.job.config)
        if self.job.estimate_propensities:
            batch = dataclasses.replace(batch, propensities_RP=estimated_propensities(self.job.sums, batch))
        compared = (self.job.champion, self.job.challenger)
        about = {
            named: _MEMORY.about((*self._setting, named), batch, partial(self._about, named))
            for named in compared
            if named.kind != LOGGED
        }
        return view_of(batch, about, compared, self.job.config.folds)

    def _part(self, pages: pa.Table) -> Rounds:
        view = self._view(pages)
        batch, there_RP = view.batch, view.batch.there_RP
        predicted_RPK = self.job.reward_model.predict(view.situation)
        asked = Asked(
            choice_RP=view.choice_RP,
            clusters_RK=self._groups.clusters(view.names)[view.grid.items_RK],
            values_RPK=predicted_RPK,
        )
        shown_RP1 = np.maximum(view.choice_RP, 0)[:, :, None]
        predicted_RP = np.where(there_RP, np.take_along_axis(predicted_RPK, shown_RP1, axis=2)[:, :, 0], 0.0)
        logged, whoever_logged = self._logged(view, asked, predicted_RP)
        targets = {
            named: self._target(view, asked, chooser, logged_known=view.logger is not None)
            for named, chooser in view.choosers.items()
        }
        return Rounds(
            users_R=batch.users_R,
            times_R=batch.times_R,
            there_RP=there_RP,
            rewards_RP=batch.rewards_RP,
            logged=logged,
            predicted_RP=predicted_RP,
            champion=targets.get(self.job.champion, whoever_logged),
            challenger=targets.get(self.job.challenger, whoever_logged),
            slices=self._groups.slices(batch),
            propensities_estimated=self.job.estimate_propensities,
        )

    def _logged(self, view: View, asked: Asked, predicted_RP: Floats) -> tuple[Chances, Target]:
        """Return the logging policy's chances, and itself as a policy to be judged."""
        batch, there_RP = view.batch, view.batch.there_RP
        propensity_RP = batch.propensities_RP
        marginal_RP = cluster_RP = propensity_RP
        # what was shown is a draw of the logging policy: where nothing else is known, it stands for the mean
        expected_RP = expected_next_RP = predicted_RP
        if not self.job.estimate_propensities:
            count_shown(self.calibration, batch, view.logger, view.choice_RP)
        if view.logger is None:
            self.skew = self.skew.merge(Skew(unknown=int(there_RP.sum())))
        else:
            given, _ = conditionals(view.logger, asked, view.choice_RP)
            self.skew = self.skew.merge(Skew.of(given.item_RP[there_RP], propensity_RP[there_RP]))
            whole = self._marginals(view.logger, view, asked, _LOGGER_SALT)
            given = dataclasses.replace(given, item_RP=propensity_RP)
            marginal_RP, cluster_RP = self._with_what_was_shown(view, whole, given)
            expected_RP, expected_next_RP = whole.expected_RP, given.expected_RP
        chances = _chances(there_RP, propensity_RP, marginal_RP, np.maximum(cluster_RP, marginal_RP))
        return chances, Target(
            chances=chances,
            expected_RP=expected_RP * there_RP,
            expected_next_RP=expected_next_RP * there_RP,
            drawn_RP=self._drawn(view, propensity_RP),
            outside_R=np.zeros(len(batch)),
            pseudo_inverse_R=self._pseudo_inverse(view, None),
        )

    def _with_what_was_shown(self, view: View, whole: Marginals, given: Marginals) -> tuple[Floats, Floats]:
        """Return marginals of the logging policy, of items and clusters, to divide by.

        The logged page is one more page that it drew. Counted among the others, it makes the mean of all the density
        of a mixture of which the shown item is a draw, whatever the number of draws: weights by it are never infinite,
        and unbiased but for items that stand before the slot on all the pages drawn (the balance heuristic of Veach
        and Guibas, SIGGRAPH 1995).
        """
        exact_R1 = are_exact(*_sizes(view), self.job.config.draws)[:, None]
        share_R1 = np.where(exact_R1, 0.0, 1.0 / (self.job.config.draws + 1))
        item_RP = (1 - share_R1) * whole.item_RP + share_R1 * given.item_RP
        cluster_RP = (1 - share_R1) * whole.cluster_RP + share_R1 * given.cluster_RP
        first = np.arange(view.choice_RP.shape[1]) == 0
        unreachable_RP = item_RP <= 0  # by what the log says of the page; what it says of the item counts
        return (
            np.where(first | unreachable_RP, given.item_RP, item_RP),
            np.where(first | unreachable_RP, given.cluster_RP, cluster_RP),
        )

    def _target(self, view: View, asked: Asked, chooser: Chooser, *, logged_known: bool) -> Target:
        there_RP = view.batch.there_RP
        given, _ = conditionals(chooser, asked, view.choice_RP)
        whole = dataclasses.replace(given, cluster_RP=given.item_RP)
        if logged_known:
            whole = self._marginals(chooser, view, asked, _TARGET_SALT)
        else:
            whole = dataclasses.replace(
                whole, expected_RP=self._marginals(chooser, view, asked, _TARGET_SALT).expected_RP
            )
        return Target(
            chances=_chances(there_RP, given.item_RP, whole.item_RP, whole.cluster_RP),
            expected_RP=whole.expected_RP * there_RP,
            expected_next_RP=given.expected_RP * there_RP,
            drawn_RP=self._drawn(view, given.item_RP),
            outside_R=self._outside(view, chooser),
            pseudo_inverse_R=self._pseudo_inverse(view, chooser),
        )

    def _pseudo_inverse(self, view: View, chooser: Chooser | None) -> Floats | None:
        """Return weights by the pseudo-inverse, nan where nobody can know them; None where nobody asks for them.

        Args:
            view: The pages.
            chooser: The policy; None for the logging policy itself, whose weights are 1.
        """
        slots, columns = view.choice_RP.shape[1], view.grid.items_RK.shape[1]
        if self.job.config.estimator != PSEUDO_INVERSE:
            return None
        if view.logger is None or not fits(slots, columns):
            return np.full(len(view.batch), np.nan)
        if chooser is None:
            return np.ones(len(view.batch))
        seeds_R = hash_strings(view.batch.column("request_id"), salt=_PAIRS_SALT)
        return pseudo_inverse_weights(view.logger, chooser, view.choice_RP, columns, seeds_R)

    def _marginals(self, chooser: Chooser, view: View, asked: Asked, salt: int) -> Marginals:
        """Return a policy's marginals; champion and challenger draw from equal numbers, the logging policy does not.

        Numbers of its own keep weights unbiased: numerator and denominator must not go up and down together.
        """
        request_ids = view.batch.column("request_id")
        seeds_R = combine_hashes(hash_strings(request_ids), hash_integers(np.full(len(view.batch), salt)))
        return page_marginals(chooser, asked, *_sizes(view), seeds_R, self.job.config.draws)

    def _drawn(self, view: View, chance_RP: Floats) -> Bools:
        """Return whether a draw of a policy would agree with the log; all policies draw from equal numbers."""
        slots = np.tile(np.arange(chance_RP.shape[1]), len(chance_RP))
        ids = np.repeat(hash_strings(view.batch.column("request_id"), salt=_REJECTION_SALT), chance_RP.shape[1])
        uniform_RP = (combine_hashes(ids, hash_integers(slots)) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        drawn_RP: Bools = (uniform_RP.reshape(chance_RP.shape) < chance_RP) & view.batch.there_RP
        return drawn_RP

    def _outside(self, view: View, chooser: Chooser) -> Floats:
        """Return the share of a policy's probability on what the logging policy could not have shown."""
        batch, grid = view.batch, view.grid
        if view.logger is not None:
            could = (chance_RK > 0 for chance_RK in view.logger.along(view.choice_RP))
        else:
            ever_V = self.job.sums.numbers(view.names) != NOBODY
            named_RK = np.where(batch.named_R[:, None], eligible_columns(batch, grid), ever_V[grid.items_RK])
            could = (named_RK & grid.there_RK for _ in range(view.choice_RP.shape[1]))
        total_R = np.zeros(len(batch))
        for slot, (could_RK, chance_RK) in enumerate(zip(could, chooser.along(view.choice_RP), strict=True)):
            total_R += (chance_RK * ~could_RK).sum(axis=1) * batch.there_RP[:, slot]
        share_R: Floats = total_R / np.maximum(batch.there_RP.sum(axis=1), 1)
        return share_R


def _chances(there_RP: Bools, conditional_RP: Floats, marginal_RP: Floats, cluster_RP: Floats) -> Chances:
    return Chances(
        conditional_RP=np.where(there_RP, conditional_RP, 1.0),
        marginal_RP=np.where(there_RP, marginal_RP, 1.0),
        cluster_RP=np.where(there_RP, cluster_RP, 1.0),
    )


def _sizes(view: View) -> tuple[Ints, Ints]:
    """Return columns and slots of each page by itself."""
    return view.grid.there_RK.sum(axis=1), view.batch.there_RP.sum(axis=1)
