"""`pagewise demo`: the whole loop on a simulated marketplace, from logs to a page served over HTTP and a verdict.

Every step is what a user would run on their own data; run again, what is up to date is skipped.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import time
from shlex import quote

from pagewise.console import Console
from pagewise.settings import Settings

SECTIONS = ("simulate", "two_tower", "semantic_ids", "genrec", "ranker")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare no arguments of its own, but another preset; `seed=1` makes another marketplace."""
    parser.set_defaults(preset="demo")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Simulate, run the daily job, ask the oracle, serve, ask for a page, show the replay's verdict."""
    from features.workspace import Workspace
    from pagewise import showcase
    from pipelines.jobs.daily import run_daily

    console, workspace, started = Console(), Workspace(args.workspace), time.monotonic()
    console.say("", "== 1. a marketplace: users with tastes, items, pages shown by a known policy, what people did ==")
    settings = showcase.until_yesterday(workspace, settings, dt.datetime.now(dt.UTC).date())
    console.say(*showcase.simulated(workspace, settings, console.progress))
    console.say("", "== 2. the daily job: from raw logs to a registered release (`pagewise run`) ==")
    # what is clicked below stays out of it: the same demo again finds everything up to date
    batch = dataclasses.replace(settings.batch, stream_log=False)
    # simulated people answer at once: the last day's pages are final, too
    answered = dataclasses.replace(settings.replay, attribution_hours=0.0)
    own_data = dataclasses.replace(settings, batch=batch, replay=answered)
    report = run_daily(own_data, workspace, console.say, force=True)
    console.say(*report.lines(), *showcase.recalled(report))
    console.say("", "== 3. what the pages are really worth: a simulated marketplace knows ==")
    console.say(*showcase.worth(workspace, settings, console.progress))
    console.say("", "== 4. the service (`pagewise serve`), and the event stream (`pagewise stream`): a click counts ==")
    console.say(*showcase.served_page(workspace, settings, console.progress))
    console.say("", "== 5. would it have done better than what was shown? offline A/B replay (`pagewise replay`) ==")
    console.say(*showcase.replayed(workspace, own_data, report, console.progress))
    console.say("", "== where everything lies ==", *showcase.places(workspace, report))
    console.say("", "== what to try next ==", *showcase.suggestions(quote(args.workspace)))
    console.say("", f"demo done in {time.monotonic() - started:.0f} s")
    return 0
