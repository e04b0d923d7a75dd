"""What an alignment starts from: the supervised run, its catalogue, and the pages to align on.

Legend: `Q` pages aligned on.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from features.schemas import TRAIN
from features.semantic_ids import Catalogue
from features.values import ItemSnapshots
from features.workspace import Workspace
from models.alignment.config import AlignConfig
from models.inputs.items import item_columns
from models.recommend.catalogue import catalogue_of
from models.recommend.interface import Ranker
from models.recommend.model_ranker import ModelRanker
from models.recommend.requests import EvaluationCases, requests_from_sequences
from models.recommend.rules import CatalogueFacts
from models.tokenizer.bundle import Bundle
from models.training.alignment_reward import Judge, WorthShare, make_gate
from models.training.genrec_run import KIND, GenRecRun, load_genrec
from models.training.ranker_run import REWARD, load_ranker
from models.training.reward_days import RewardDays
from models.training.runs import Runs
from models.training.streams import SAMPLE, stream_seed
from models.training.two_tower_run import load_two_tower
from models.two_tower.model import TwoTower

_EXPOSING = ("impressions", "clicks", "carts", "purchases")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlignmentPages:
    """What does not depend on the reward.

    Attributes:
        workspace: Holds everything.
        run: The run whose weights are aligned.
        supervised: What it was trained from.
        bundle: Its semantic IDs.
        catalogue: Their items.
        users: The two-tower model, for a model with `user_prefix`.
        max_history: Newest history entries per page that reward model and GenRec read.
        days: When the reward model's pages end.
        cases: `Q` training pages from then on.
    """

    workspace: Workspace
    run: str
    supervised: GenRecRun
    bundle: Bundle
    catalogue: Catalogue
    users: TwoTower | None
    max_history: int
    days: RewardDays
    cases: EvaluationCases

    @classmethod
    def load(
        cls, workspace: Workspace, config: AlignConfig, max_history: int, run: str | None = None
    ) -> AlignmentPages:
        """Read a supervised run and the training pages.

        Args:
            workspace: On this machine.
            config: Share of the reward model's days.
            max_history: Newest history entries that the reward model reads.
            run: The supervised run; None for the latest.

        Raises:
            MissingRunError: No GenRec was trained.
            ValueError: The training pages are of too few moments.
        """
        run = run or Runs(workspace, KIND).latest()
        _, supervised = load_genrec(workspace, run)
        if supervised.aligned_from is not None:
            raise ValueError(
                f"expected a supervised GenRec, but run {run} is aligned itself, from {supervised.aligned_from}: "
                "name the supervised one, or run `pagewise train genrec`"
            )
        bundle = Bundle.load(workspace, supervised.generation)
        catalogue = catalogue_of(bundle, workspace)
        users = None if supervised.two_tower is None else load_two_tower(workspace, supervised.two_tower)[0]
        newest = max(max_history, supervised.model.max_history)
        cases = requests_from_sequences(workspace, catalogue, TRAIN, max_history=newest)
        days = RewardDays.of(cases.requests.times_B, config.reward_fraction)
        return cls(
            workspace=workspace,
            run=run,
            supervised=supervised,
            bundle=bundle,
            catalogue=catalogue,
            users=users,
            max_history=newest,
            days=days,
            cases=cases.take(np.flatnonzero(cases.requests.times_B >= days.aligned_from)),
        )

    def reward_of(self, run: str) -> Ranker:
        """Return a reward model as a scorer of this catalogue's items as of each page's own moment."""
        model, trained = load_ranker(self.workspace, run, REWARD)
        facts = CatalogueFacts(self.workspace.table("clean_items").read(), self.catalogue)
        ranker = ModelRanker(model, trained.calibration, item_columns(facts.table))
        return WorthShare(ranker.with_snapshots(ItemSnapshots.load(self.workspace, self.catalogue.item_ids)))

    def judge(self, reward: Ranker, config: AlignConfig, seed: int) -> Judge:
        """Return what rewards candidates, with the gate's threshold set."""
        gate = None
        if config.gate:
            rng = np.random.default_rng(stream_seed(seed, SAMPLE))
            gate = make_gate(self.workspace, self.catalogue, self.bundle.vectors, self.cases, config, rng)
        return Judge(reward, self.catalogue, config, gate, self._exposures())

    def _exposures(self) -> np.ndarray:
        """Return how often each item was exposed before the split, `[N]`."""
        table = self.workspace.table("item_statistics").read(["item_id", *_EXPOSING])
        exposures_N = np.zeros(len(self.catalogue))
        numbers = self.catalogue.numbers(table["item_id"])
        counts = sum(table[name].to_numpy() for name in _EXPOSING)
        exposures_N[numbers[numbers >= 0]] = counts[numbers >= 0]
        return exposures_N
