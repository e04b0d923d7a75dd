"""Offline A/B replay: whether B would have done better than A on the logged pages."""

from __future__ import annotations

import dataclasses
import time as clock
from collections.abc import Callable, Iterator, Sequence

import apache_beam as beam
import numpy as np
import pyarrow as pa

from features.workspace import Workspace
from pipelines.batch.runner import running_pipeline
from pipelines.replay.checks import checks, decider, weights_kind
from pipelines.replay.config import ReplayConfig
from pipelines.replay.estimates import Estimate, estimates
from pipelines.replay.estimators import primary
from pipelines.replay.judging import JudgeJob
from pipelines.replay.logs import LoggedPages, counted_pages, survey
from pipelines.replay.named import LOGGED, NamedPolicy, named_policy
from pipelines.replay.planning import minimum_detectable_effect
from pipelines.replay.policies import table_versions
from pipelines.replay.preparing import prepare
from pipelines.replay.publishing import folder_name, inputs_digest, reward_words
from pipelines.replay.report import Contender, Question, ReplayReport
from pipelines.replay.transforms import KeyedJob, ReplaySums, SumPages
from pipelines.replay.unseen import learned_by, unseen_check, unseen_from
from pipelines.replay.verdict import decide
from pipelines.replay.verdicts import FOLDER, compared_now, refusals_recorded

_CANDIDATES = {
    "logged": "each release orders the candidates that the log names",
    "own": "each release brings its own candidates",
}


def replay(
    workspace: Workspace,
    config: ReplayConfig,
    *,
    seed: int = 0,
    tracking_uri: str | None = None,
    beam_options: Sequence[str] = (),
    progress: Callable[[str], None] | None = None,
) -> ReplayReport:
    """Judge the logged pages and decide; memory does not grow with their number.

    Args:
        workspace: Holds the releases, and the table `pages` where `config.logs` names no other log.
        config: What is compared, and what evidence a verdict needs.
        seed: Of the reward model and the bootstrap.
        tracking_uri: See `models.registry.Registry`.
        beam_options: Beam's own options; default: in this process.
        progress: Told what is being done.

    Raises:
        FileNotFoundError: There are no logs, or no such table of probabilities.
        ValueError: A policy is unknown, or no page can be judged.
    """
    started, say = clock.monotonic(), progress or (lambda line: None)
    primary(config.estimator, slots=2)
    policies = [named_policy(name, workspace, tracking_uri) for name in (config.champion, config.challenger)]
    with refusals_recorded(workspace, *_pair(policies)):
        return _replayed(workspace, config, policies, seed, tracking_uri, beam_options, say, started)


def _replayed(
    workspace: Workspace,
    config: ReplayConfig,
    policies: Sequence[NamedPolicy],
    seed: int,
    tracking_uri: str | None,
    beam_options: Sequence[str],
    say: Callable[[str], None],
    started: float,
) -> ReplayReport:
    logs = pages_to_judge(workspace, config, policies)
    primary(config.estimator, logs.slots)  # a name that is none is told before pages are judged
    say(f"replay: {logs.rows:,} logged pages, those of {logs.window()} UTC are judged")
    if policies[0].label == policies[1].label:
        say(f"  champion and challenger are both {policies[0].label}: the difference can only be 0")
    job = prepare(
        workspace,
        config,
        pages_of(logs),
        tracking_uri=tracking_uri,
        seed=seed,
        progress=say,
    )
    asked = [dataclasses.asdict(policy) for policy in policies]
    digest = inputs_digest(logs, config, seed, asked, table_versions(workspace))
    sums = summed(workspace, logs, KeyedJob(digest, job), beam_options)
    return judged(workspace, logs, job, sums, digest, seed, started)


def summed(workspace: Workspace, logs: LoggedPages, job: KeyedJob, beam_options: Sequence[str] = ()) -> ReplaySums:
    """Run the pipeline; its sums come back in a file of the workspace."""
    uri = workspace.root if workspace.is_local else workspace.uri
    path = ("runs", "replay_sums", f"{job.digest}.npz")
    with running_pipeline(beam_options) as pipeline:
        _ = pipeline | SumPages(logs, job) | "write" >> beam.Map(_write, uri, path)
    return ReplaySums.from_bytes(workspace.read_bytes(*path), job.job.config, logs.slots)


def judged(
    workspace: Workspace,
    logs: LoggedPages,
    job: JudgeJob,
    sums: ReplaySums,
    digest: str,
    seed: int,
    started: float,
) -> ReplayReport:
    """Return what sums come to.

    Raises:
        ValueError: They are of no page.
    """
    marginals_known = logs.slots == 1 or not sums.unknown
    deciding = primary(job.config.estimator, logs.slots, marginals_known=marginals_known)
    by_prefix = not marginals_known or weights_kind(deciding) == "prefix"
    config = dataclasses.replace(job.config, estimator=deciding)
    found, users = sums.diagnostics.report("prefix" if by_prefix else "position"), sums.tally.users.count()
    if not found.pages:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(found.bad.items())) or "none was there"
        raise ValueError(
            f"no page of {logs.window()} UTC can be judged: {reasons}; pages need the probability of each item shown "
            "(docs/replay.md says how to log them)"
        )
    said = estimates(sums.tally, config, seed)
    if not marginals_known:
        said = [_without_marginals(one) for one in said]
    gates = checks(found, said, config, users=users)
    gates.append(unseen_check(learned_by(workspace, (job.champion, job.challenger)), logs))
    compared = compared_now(workspace, *_pair((job.champion, job.challenger)), digest, job.config)
    again = compared.look > 1
    return ReplayReport(
        question=_question(workspace, logs, job, sums, found.pages, digest),
        verdict=decide(said, gates, config, compared=compared, users=users, always_valid=again),
        estimates=tuple(said),
        diagnostics=found,
        detectable=minimum_detectable_effect(
            decider(said, config).se, config.confidence, always_valid_users=users if again else None
        ),
        notes=tuple(_notes(job, sums)),
        seconds=clock.monotonic() - started,
        folder=workspace.path(FOLDER, folder_name(logs, digest)),
    )


def pages_to_judge(workspace: Workspace, config: ReplayConfig, policies: Sequence[NamedPolicy]) -> LoggedPages:
    """Look at the logs; where a policy has learned from a workspace, only pages count that it has not learned from."""
    return survey(
        workspace,
        config.logs,
        since=config.since,
        until=config.until,
        hours=config.attribution_hours,
        first_ms=unseen_from(learned_by(workspace, policies)),
    )


def pages_of(logs: LoggedPages) -> Iterator[pa.Table]:
    """Yield the pages of the window, repeated ones too."""
    for path in logs.files:
        for pages, _ in counted_pages(logs, path, np.zeros(0, dtype=np.int64)):
            yield pages


def _write(sums: ReplaySums, uri: str, path: Sequence[str]) -> None:
    Workspace(uri).write_bytes(sums.to_bytes(), *path)


def _without_marginals(one: Estimate) -> Estimate:
    """Return an estimate that promises nothing where it weighs slots whatever stands before them."""
    if weights_kind(one.name) not in ("position", "cluster"):
        return one
    assumption = (
        "what stands before a slot changes nothing: how likely the logging policy fills a slot whatever stands before "
        "it does not follow from this log, and the chances given the slots before stand in for it"
    )
    return dataclasses.replace(one, promise="none", assumption=assumption)


def _pair(policies: Sequence[NamedPolicy]) -> tuple[str, str | None]:
    """Return what a verdict calls challenger and champion; the latter None where a champion is not there yet."""
    champion, challenger = policies
    return challenger.release_id or challenger.name, None if champion.kind == LOGGED else (
        champion.release_id or champion.name
    )


def _question(
    workspace: Workspace, logs: LoggedPages, job: JudgeJob, sums: ReplaySums, counted: int, digest: str
) -> Question:
    config = job.config
    return Question(
        champion=_contender(job.champion),
        challenger=_contender(job.challenger),
        logs=config.logs or workspace.table("pages").root,
        window=logs.window(),
        pages=logs.rows,
        counted=counted,
        users=sums.tally.users.count(),
        reward=reward_words(config),
        unit=config.unit,
        candidates=_CANDIDATES[config.candidates],
        logged_by=tuple(name for name, _ in sums.logged_by.most_common(5)),
        inputs=digest,
    )


def _contender(policy: NamedPolicy) -> Contender:
    return Contender(spec=policy.name, title=policy.label, release=policy.release_id)


def _notes(job: JudgeJob, sums: ReplaySums) -> Iterator[str]:
    if job.estimate_propensities:
        yield "the log has no propensities; they were estimated, which no interval knows of"
    for one in (job.champion, job.challenger):
        if one.estimated:
            yield f"probabilities of {one.name} are estimates"
            yield (
                f"no gate knows which pages {one.name} was made of: if they were chosen by what these pages earned, it "
                "looks better here than it is"
            )
    if sums.unknown:
        yield (
            f"{sums.unknown:,} shown items stand on pages whose log lacks candidates, scores, epsilon or temperature "
            "(or made with caps or diversity): how likely a slot is filled whatever stands before it is not known, and "
            "estimators that ask for it decide nothing"
        )
