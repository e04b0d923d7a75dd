"""GenRec's alignment: a supervised run and a reward model of earlier days in, an aligned run out.

The aligned run lies beside the supervised one, in `checkpoints/genrec/`; `LATEST` goes on naming the supervised run,
`ALIGNED` names this one (`models.training.genrec_run.newest_genrec` chooses).
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable

from features.workspace import Workspace
from models.alignment.config import AlignConfig
from models.genrec.config import DecodeConfig
from models.ranker.config import RankerConfig
from models.recommend.interface import Ranker
from models.training.alignment_data import PromptSource
from models.training.alignment_measure import HeldOutReferee, held_out_measurement
from models.training.alignment_pages import AlignmentPages
from models.training.alignment_policy import Policy
from models.training.alignment_report import Alignment
from models.training.config import TrainConfig
from models.training.export import load_weights
from models.training.genrec_run import KIND, GenRecRun
from models.training.loop import Evaluate
from models.training.publish import train_and_publish
from models.training.ranker import train_ranker
from models.training.runs import ALIGNED, WEIGHTS, Runs
from models.training.streams import ORDER, stream_seed
from models.training.tracking import code_version
from models.training.validation import validation_cases

WARMUP = 0.05
"""Share of the steps in which the rate grows; then it stays."""


def align_genrec(
    workspace: Workspace,
    config: AlignConfig,
    ranker_config: RankerConfig,
    ranker_train: TrainConfig,
    *,
    decode: DecodeConfig,
    seed: int,
    track: bool = True,
    tracking_uri: str | None = None,
    latest: bool = True,
    supervised: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Alignment:
    """Align a supervised GenRec and publish the run; the same call again finds it, or resumes it.

    A ranker of the earlier training days is the reward (a run of kind `reward`), the pages of the later ones are
    aligned on. Loop, precision and checkpoints are those of the supervised run.

    Args:
        workspace: Holds a GenRec run, its semantic IDs, and what a ranker is trained on; on this machine.
        config: Rewards, loss and length of the run.
        ranker_config: Of the reward model.
        ranker_train: Of its training.
        decode: How the aligned GenRec will be asked: by hits found so its weights are chosen.
        seed: Everything random follows from it.
        track: Whether to record the runs with MLflow.
        tracking_uri: An MLflow server; None for the workspace's own store.
        latest: Whether evaluation and releases take the aligned run.
        supervised: The run to align; None for the latest.
        progress: Receives a line of text now and then.

    Raises:
        FileNotFoundError: A table, the semantic IDs or the GenRec run are missing.
        TooFewDaysError: No training page is later than those the reward model needs.
        ValueError: The configuration has no step, or there are several processes.
        KeyboardInterrupt: Ctrl-C was pressed; a checkpoint was written first.
    """
    _check_processes()
    if not config.steps:
        raise ValueError(
            "align.steps: expected at least 1 to align, got 0, with which `pagewise run` leaves the alignment out"
        )
    pages = AlignmentPages.load(workspace, config, ranker_config.max_history, supervised)
    say = progress or (lambda line: None)
    say("reward model: a ranker of the earlier training days")
    reward = train_ranker(
        workspace,
        ranker_config,
        ranker_train,
        seed=seed,
        reward=pages.days,
        track=track,
        tracking_uri=tracking_uri,
        progress=progress,
    )
    return align_to(
        pages,
        pages.reward_of(reward.run),
        reward.run,
        config,
        decode=decode,
        seed=seed,
        track=track,
        tracking_uri=tracking_uri,
        latest=latest,
        progress=progress,
    )


def align_to(
    pages: AlignmentPages,
    reward: Ranker,
    reward_run: str,
    config: AlignConfig,
    *,
    decode: DecodeConfig,
    seed: int,
    track: bool = True,
    tracking_uri: str | None = None,
    latest: bool = True,
    progress: Callable[[str], None] | None = None,
) -> Alignment:
    """Align towards any reward; see `align_genrec`.

    Args:
        pages: What is aligned, on which pages.
        reward: Scores items in [0, 1].
        reward_run: Its name: another reward makes another run.
        config: Rewards, loss and length of the run.
        decode: How the aligned GenRec will be asked.
        seed: Everything random follows from it.
        track: Whether to record the run with MLflow.
        tracking_uri: An MLflow server; None for the workspace's own store.
        latest: Whether evaluation and releases take the aligned run.
        progress: Receives a line of text now and then.
    """
    say = progress or (lambda line: None)
    job = _Job(pages, reward, reward_run, config, decode, seed, say)
    tracking = train_and_publish(
        pages.workspace,
        KIND,
        job.run.name,
        config=job.run.to_json(),
        build=job.policy,
        source=lambda rank, world_size: job.source(),
        train_config=job.run.train,
        seed=seed,
        evaluate=job.measurement,
        referee=HeldOutReferee(config),
        tags={"semantic_ids": job.run.generation, "aligned_from": pages.run, "reward": reward_run},
        parameters={"align": dataclasses.asdict(config), "decode": dataclasses.asdict(decode)},
        track=track,
        tracking_uri=tracking_uri,
        latest=False,
        progress=progress,
    )
    runs = Runs(pages.workspace, KIND)
    if latest:
        runs.point_to(job.run.name, ALIGNED)
    return Alignment.of(job.run, pages, runs, tracking)


class _Job:
    """A run, and what `train_and_publish` asks for."""

    def __init__(
        self,
        pages: AlignmentPages,
        reward: Ranker,
        reward_run: str,
        config: AlignConfig,
        decode: DecodeConfig,
        seed: int,
        say: Callable[[str], None],
    ) -> None:
        self.pages, self.reward, self.config, self.decode = pages, reward, config, decode
        self.seed, self.say = seed, say
        self.run: GenRecRun = dataclasses.replace(
            pages.supervised,
            train=_loop(config, pages.supervised.train),
            seed=seed,
            catalogue=pages.catalogue.fingerprint,
            sequences=pages.workspace.table("sequences").manifest().fingerprint,
            code_version=code_version(),
            aligned_from=pages.run,
            align=config,
            reward=reward_run,
            decode=decode,
        )

    def policy(self) -> Policy:
        """Return the policy with the supervised weights."""
        judge = self.pages.judge(self.reward, self.config, self.seed)
        if judge.gate is not None:
            self.say(f"gate: cosine of at least {judge.gate.threshold:.3f} to history or positives")
        policy = Policy(self.run, self.pages.catalogue, judge, self.config)
        load_weights(policy, Runs(self.pages.workspace, KIND).open(self.pages.run).folder / WEIGHTS)
        return policy

    def source(self) -> PromptSource:
        """Return the batches."""
        pages, config = self.pages, self.config
        requests, users = pages.cases.requests, pages.users
        return PromptSource(
            pages.cases,
            pages.catalogue,
            self.run.model,
            pages_per_step=config.pages_per_step,
            period=_period(config),
            seed=stream_seed(self.seed, ORDER),
            user_vectors_QU=None if users is None else users.user_vectors(requests, pages.catalogue),
        )

    def measurement(self, policy: Policy) -> Evaluate | None:
        """Return the measurement on held-out pages, None where there are none."""
        pages = self.pages
        cases = validation_cases(
            pages.workspace,
            pages.catalogue,
            pages=self.config.validation_pages,
            max_history=pages.max_history,
            seed=self.seed,
            progress=self.say,
        )
        if cases is None:
            return None
        return held_out_measurement(policy, pages.catalogue, cases, pages.users, self.decode)


def _period(config: AlignConfig) -> int:
    """Return the steps between two evaluations."""
    return min(config.evaluate_every_steps, config.steps)


def _loop(config: AlignConfig, supervised: TrainConfig) -> TrainConfig:
    """Return the loop of an alignment: the supervised one, with a constant rate after its warm-up."""
    period = _period(config)
    return dataclasses.replace(
        supervised,
        epochs=math.ceil(config.steps / period),
        max_seconds=None,
        learning_rate=config.learning_rate,
        warmup_fraction=WARMUP,
        schedule="constant",
        ema_decay=None,
        evaluate_every_epochs=1,
        validation_pages=config.validation_pages,
        patience=None,
        log_every_steps=period,
    )


def _check_processes() -> None:
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        raise ValueError(
            f"alignment: expected one process, got {processes}; run `pagewise align` without torchrun (groups of "
            "candidates are judged in one process)"
        )
