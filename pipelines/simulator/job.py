"""The whole simulation: build the world, live through the days, write the tables and the oracle."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping

import numpy as np

from features.schemas import CART, CLICK, IMPRESSION, PURCHASE, RAW_TABLES
from features.workspace import FileEntry, Workspace
from pipelines.simulator.config import SimulateConfig
from pipelines.simulator.day import Pages, State, simulate_day
from pipelines.simulator.oracle import ORACLE_FILE, Oracle
from pipelines.simulator.tables import STAGES, date_of, events_table, items_table, served_pages_table, users_table
from pipelines.simulator.world import World, build_world

DATASET = "simulated"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimulationReport:
    """What one simulation wrote."""

    users: int
    items: int
    days: int
    pages: int
    events: dict[str, int]
    """Number of events by kind."""

    seconds: float
    outputs: dict[str, str]
    """Where each table and the oracle's secret state lie."""

    @property
    def total_events(self) -> int:
        """Number of events of all kinds."""
        return sum(self.events.values())

    def lines(self) -> list[str]:
        """Return the report as lines to print."""
        shown = self.events[IMPRESSION]
        rates = ", ".join(f"{kind} {self.events[kind] / max(shown, 1):.2%}" for kind in (CLICK, CART, PURCHASE))
        return [
            f"{self.users:,} users, {self.items:,} items, {self.days} days, {self.pages:,} pages",
            "events: " + ", ".join(f"{kind} {count:,}" for kind, count in self.events.items()),
            f"per impression: {rates}",
            f"{self.total_events:,} events in {self.seconds:.1f} s "
            f"({self.total_events / max(self.seconds, 1e-9):,.0f} events/s)",
            *(f"{name}: {path}" for name, path in self.outputs.items()),
        ]


def simulate(
    config: SimulateConfig, workspace: Workspace, seed: int, progress: Callable[[str], None] | None = None
) -> SimulationReport:
    """Simulate a marketplace and write its raw tables; equal configuration and seed give equal bytes.

    Args:
        config: Size and logging policy.
        workspace: Where `events`, `items`, `users`, `served_pages` and the oracle's secret state are written.
        seed: Seed of all random streams.
        progress: Called with one line per simulated day.
    """
    started = time.perf_counter()
    world = build_world(config, seed)
    state = State.first(world)
    days: list[Pages] = []
    entries: dict[str, list[FileEntry]] = {"events": [], "served_pages": []}
    for day in range(config.days):
        lived = simulate_day(world, state, day, seed)
        rows, date = events_table(world, lived, day), date_of(config, day)
        entries["events"].append(workspace.table("events").write_part(rows, shard=0, date=date))
        served = served_pages_table(world, lived, day)
        entries["served_pages"].append(workspace.table("served_pages").write_part(served, shard=0, date=date))
        days.append(lived.without_candidates())
        if progress:
            progress(f"{date_of(config, day)}: {rows.num_rows:,} events")
    pages = Pages.concatenate(days)
    _commit(workspace, world, entries, seed)
    Oracle.of_pages(world, pages).save(workspace)
    return SimulationReport(
        users=len(world.users),
        items=len(world.items),
        days=config.days,
        pages=len(pages.users_R),
        events={kind: int(np.count_nonzero(pages.stages_RP >= stage)) for stage, kind in enumerate(STAGES)},
        seconds=time.perf_counter() - started,
        outputs={
            **{name: workspace.table(name).root for name in RAW_TABLES},
            "oracle": workspace.path(*ORACLE_FILE),
        },
    )


def _commit(workspace: Workspace, world: World, by_day: Mapping[str, list[FileEntry]], seed: int) -> None:
    notes = {"dataset": DATASET, "order_only": False, "seed": seed, "config": dataclasses.asdict(world.config)}
    for name, entries in by_day.items():
        workspace.table(name).commit(entries, notes=notes)
    for name, rows in (("items", items_table(world)), ("users", users_table(world))):
        table = workspace.table(name)
        table.commit([table.write_part(rows, shard=0)], notes=notes)
    rejects = workspace.table("import_rejects")
    if rejects.exists():  # of an import whose events these replace
        rejects.commit([], notes=notes)
