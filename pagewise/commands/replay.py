"""`pagewise replay`: whether B would have done better than A on the logged pages."""

from __future__ import annotations

import argparse
import shlex

from pagewise.console import Console
from pagewise.invocation import DEFAULT_PRESET, add_beam_arguments
from pagewise.settings import Settings

SECTIONS = ("replay", "tracking")
CHAMPION, CHALLENGER = "replay.champion", "replay.challenger"
"""Settings that options name."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what is compared on which logs, and the Beam runner."""
    names = "`champion`, `challenger`, a release id, `popular`, `transitions`, `uniform`, `logged` or `table:FILE`"
    parser.add_argument("--champion", dest=CHAMPION, metavar="A", help=f"policy A: {names} (default: replay.champion)")
    parser.add_argument(
        "--challenger", dest=CHALLENGER, metavar="B", help="policy B, named alike (default: replay.challenger)"
    )
    parser.add_argument(
        "--logs",
        dest="replay.logs",
        metavar="PATH",
        help="Parquet file or folder of logged pages (default: the workspace's table pages)",
    )
    parser.add_argument(
        "--live",
        action="store_true",
        help="read out what both arms of the service really earned (users split by serve.challenger_share)",
    )
    add_beam_arguments(parser)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Judge, print the verdict and the table, publish the report; whatever the verdict, that is success.

    Raises:
        ValueError: Policies were named beside `--live`.
    """
    from features.workspace import Workspace
    from pipelines.replay.named import named_policy

    console, workspace = Console(), Workspace(args.workspace)
    config = settings.replay
    if args.live and (getattr(args, CHAMPION) or getattr(args, CHALLENGER)):
        raise ValueError("--live: the arms are who they were; expected no --champion and no --challenger beside it")
    if not args.live:
        for name in (config.champion, config.challenger):
            named_policy(name, workspace, settings.tracking.uri)  # mistakes are told before heavy libraries are loaded
    from pipelines.replay.job import replay
    from pipelines.replay.live_job import replay_live
    from pipelines.replay.publishing import publish

    if args.live:
        share = settings.serve.challenger_share
        report = replay_live(workspace, config, challenger_share=share, beam_options=args.beam_options)
    else:
        report = replay(
            workspace,
            config,
            seed=settings.seed,
            tracking_uri=settings.tracking.uri,
            beam_options=args.beam_options,
            progress=console.progress,
        )
    tracked = publish(report, workspace, settings.tracking.uri)
    console.say(*report.lines(), *tracked)
    if report.verdict.promote and report.question.challenger.release:
        console.say(f"next: {promotion(args)}")
    return 0


def promotion(args: argparse.Namespace) -> str:
    """Return the command that promotes by the verdict: it repeats what decides, else promote would refuse."""
    from pipelines.replay.verdicts import DECIDING

    asked = [f"--preset={args.preset}"] if args.preset != DEFAULT_PRESET else []
    asked += [f"--config={args.config}"] if args.config is not None else []
    for override in args.overrides:
        section, _, option = override.partition("=")[0].partition(".")
        if section == "tracking" or (section == "replay" and option.split(".")[0] in ("", *DECIDING)):
            asked.append(override)
    return shlex.join(["pagewise", "promote", "--workspace", args.workspace, *asked])
