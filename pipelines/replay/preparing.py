"""What must be known before pages are judged: who the policies are, and what the log shows and earns (driver, once)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
import pyarrow as pa

from features.workspace import Workspace
from kernels.hashing import hash_strings
from pipelines.replay.config import ReplayConfig
from pipelines.replay.judging import Judge, JudgeJob
from pipelines.replay.logged import read_batch
from pipelines.replay.named import named_policy
from pipelines.replay.placed_sums import Placed, PlacedSums
from pipelines.replay.reward_model import BoostedModel, NoRewardModel, TableModel
from pipelines.replay.views import parted

FIT_PAGES = 20_000
"""Pages that the reward model is fitted on, at most."""


def prepare(
    workspace: Workspace,
    config: ReplayConfig,
    pages: Iterable[pa.Table],
    *,
    tracking_uri: str | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> JudgeJob:
    """Find the policies, and fit what must be known of the log.

    Args:
        workspace: Holds releases, histories and features.
        config: What is compared.
        pages: The pages to be judged, in parts; of more than `FIT_PAGES`, an even sample is looked at.
        tracking_uri: See `models.registry.Registry`.
        seed: Of the reward model.
        progress: Told what is fitted.
    """
    say = progress or (lambda line: None)
    champion = named_policy(config.champion, workspace, tracking_uri)
    challenger = named_policy(config.challenger, workspace, tracking_uri)
    sample = _sample(pages)
    batches = [read_batch(part, config) for part in sample if part.num_rows]
    if not batches:
        raise ValueError("expected logged pages to judge, got none")
    sums = PlacedSums([Placed.of_batch(batch, config.folds) for batch in batches], config.folds)
    job = JudgeJob(
        config=config,
        uri=workspace.root if workspace.is_local else workspace.uri,
        champion=champion,
        challenger=challenger,
        sums=sums,
        reward_model=NoRewardModel(),
        estimate_propensities=all(np.isnan(batch.propensities_RP[batch.there_RP]).all() for batch in batches),
    )
    if config.reward_model == "none":
        return job
    if config.reward_model == "table":
        return dataclasses.replace(job, reward_model=TableModel(sums))
    say(f"reward model: looking at {sum(len(batch) for batch in batches):,} pages")
    judge = Judge(job)
    seen = [judge.situation(table.take(pa.array(rows))) for table in sample for rows in parted(table)]
    situations, choices, rewards = (list(part) for part in zip(*seen, strict=True))
    model = BoostedModel(sums, situations, choices, rewards, seed)
    return dataclasses.replace(job, reward_model=model)


def _sample(pages: Iterable[pa.Table]) -> list[pa.Table]:
    """Return all pages, as they come; of too many an even sample, `FIT_PAGES` of them or half as many."""
    kept: list[pa.Table] = []
    share = 1.0
    for part in pages:
        kept.append(part if share == 1.0 else _sampled(part, share))
        while sum(one.num_rows for one in kept) > FIT_PAGES:
            share /= 2
            kept = [_sampled(one, share) for one in kept]
    return kept


def _sampled(pages: pa.Table, share: float) -> pa.Table:
    hashes_R = hash_strings(pages.column("request_id").combine_chunks(), salt=1)
    return pages.filter(pa.array(hashes_R < np.uint64(int(share * 2**64))))
