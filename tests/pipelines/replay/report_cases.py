"""A report of pages made of random numbers: epsilon-greedy logs, a challenger that likes what is clicked."""

from __future__ import annotations

import datetime

import numpy as np
from replay_worlds import chances, rounds_of, target

from pipelines.replay.checks import checks
from pipelines.replay.config import ReplayConfig
from pipelines.replay.diagnostics import Diagnostics
from pipelines.replay.estimates import estimates
from pipelines.replay.report import Contender, Question, ReplayReport
from pipelines.replay.rounds import Rounds
from pipelines.replay.tally import Tally
from pipelines.replay.verdict import Compared, decide

EVIL = "<img src=x onerror=alert(1)>&"
"""A name that must stay a text."""


def random_rounds(pages: int, slots: int, seed: int = 0, better: float = 2.0) -> Rounds:
    """Pages of five equally likely items; item 0 is clicked more often, and `better` times as likely under B."""
    rng = np.random.default_rng(seed)
    item_RP = rng.integers(0, 5, (pages, slots))
    logged = chances(np.full((pages, slots), 0.2))
    challenger = chances(np.where(item_RP == 0, 0.2 * better, (1 - 0.2 * better) / 4))
    click_RP = rng.random((pages, slots)) < np.where(item_RP == 0, 0.4, 0.1)
    return rounds_of(
        click_RP, logged, target(logged, drawn_RP=item_RP == 1), target(challenger), users_R=rng.integers(0, 900, pages)
    )


def report_of(rounds: Rounds, config: ReplayConfig, notes: tuple[str, ...] = ()) -> ReplayReport:
    """Judge and report pages."""
    slots = rounds.there_RP.shape[1]
    tally, diagnostics = Tally.empty(config, slots).add(rounds), Diagnostics.empty(config, slots)
    diagnostics.add(rounds)
    found, users = estimates(tally, config), tally.users.count()
    gates = checks(diagnostics.report(), found, config, users=users)
    time = datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC)
    compared = Compared(challenger="new", champion="old", inputs="0123456789abcdef", time=time)
    return ReplayReport(
        question=Question(
            champion=Contender(spec="champion", title="champion, release old", release="old"),
            challenger=Contender(spec=EVIL, title=EVIL, release="new"),
            logs="/logs",
            window="2026-01-01 00:00 to 2026-01-02 00:00",
            pages=len(rounds) + 1,
            counted=len(rounds),
            users=users,
            reward="1 x click",
            unit="page",
            candidates="candidates of the log",
            logged_by=("epsilon=0.1",),
            inputs="0123456789abcdef",
        ),
        verdict=decide(found, gates, config, compared=compared, users=users),
        estimates=tuple(found),
        diagnostics=diagnostics.report(),
        detectable=0.01,
        notes=notes,
        seconds=1.5,
        folder="/ws/replay/x",
    )
