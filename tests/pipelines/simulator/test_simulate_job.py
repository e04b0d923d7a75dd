from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from features.schemas import CART, CLICK, EVENTS, IMPRESSION, ITEMS, PURCHASE, USERS
from features.workspace import Workspace
from pipelines.simulator.config import SimulateConfig
from pipelines.simulator.day import Pages, State, simulate_day
from pipelines.simulator.job import SimulationReport, simulate
from pipelines.simulator.oracle import ORACLE_FILE
from pipelines.simulator.tables import events_table, items_table, users_table
from pipelines.simulator.world import DAY_MS, World, build_world

Simulated = tuple[Workspace, SimulationReport]


def all_bytes(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def live_through(world: World, seed: int) -> Pages:
    state = State.first(world)
    return Pages.concatenate([simulate_day(world, state, day, seed) for day in range(world.config.days)])


def test_one_seed_gives_identical_bytes_and_another_does_not(simulated: Simulated, tmp_path: Path) -> None:
    workspace, report = simulated
    config = SimulateConfig(**workspace.table("events").manifest().notes["config"])
    again = simulate(config, Workspace(tmp_path / "again"), seed=7)
    assert all_bytes(tmp_path / "again") == all_bytes(workspace.local_path())
    assert again.events == report.events
    other = simulate(config, Workspace(tmp_path / "other"), seed=8)
    assert other.events != report.events


def test_tables_keep_the_contract(simulated: Simulated, small_config: SimulateConfig) -> None:
    workspace, report = simulated
    for name, schema in (("events", EVENTS), ("items", ITEMS), ("users", USERS)):
        table = workspace.table(name)
        assert table.read().schema == schema
        notes = table.manifest().notes
        assert (notes["dataset"], notes["order_only"], notes["seed"]) == ("simulated", False, 7)
        assert notes["config"] == dataclasses.asdict(small_config)
    rows = workspace.table("events").read()
    assert rows.num_rows == report.total_events
    assert pc.count_distinct(rows["event_id"]).as_py() == rows.num_rows
    assert set(rows["policy"].to_pylist()) == {"simulator"}
    items = workspace.table("items").read()
    assert pc.count_distinct(items["item_id"]).as_py() == items.num_rows == report.items == 200 + 3 * 6
    assert all(len(path) == 3 and path[0] == "shop" for path in items["category"].to_pylist())


def test_every_page_is_complete_and_its_answers_follow_it(simulated: Simulated) -> None:
    pages: dict[str, list[dict[str, object]]] = {}
    for row in simulated[0].table("events").read().to_pylist():
        pages.setdefault(row["request_id"], []).append(row)
    order = [IMPRESSION, CLICK, CART, PURCHASE]
    for rows in pages.values():
        shown = [row for row in rows if row["event"] == IMPRESSION]
        assert sorted(row["position"] for row in shown) == list(range(5))
        assert len({row["item_id"] for row in shown}) == 5
        assert len({(row["user_id"], row["session_id"], tuple(row["context"])) for row in rows}) == 1
        assert all(0 < row["propensity"] <= 1 for row in rows)
        for impression in shown:
            chain = [row for row in rows if row["item_id"] == impression["item_id"]]
            assert [row["event"] for row in chain] == order[: len(chain)]
            assert sorted({row["timestamp"] for row in chain}) == [row["timestamp"] for row in chain]
            assert [row["value"] is not None for row in chain] == [row["event"] == PURCHASE for row in chain]


def test_value_of_a_purchase_is_the_price(simulated: Simulated) -> None:
    items = simulated[0].table("items").read()
    price = dict(zip(items["item_id"].to_pylist(), items["price"].to_pylist(), strict=True))
    bought = simulated[0].table("events").read(filter=pc.field("event") == PURCHASE).to_pylist()
    assert bought
    assert all(row["value"] == price[row["item_id"]] > 0 for row in bought)


def test_partitions_hold_the_events_of_their_date_in_order_of_time(simulated: Simulated) -> None:
    table = simulated[0].table("events")
    dates = []
    for path in table.files():
        date = path.split("date=")[1].split("/")[0]
        times = pq.read_table(path, columns=["timestamp"], partitioning=None)["timestamp"].to_pylist()
        assert {time.date().isoformat() for time in times} == {date}
        assert times == sorted(times)
        dates.append(date)
    assert dates == ["2025-01-01", "2025-01-02", "2025-01-03", "2025-01-04"]


def test_only_available_items_are_shown(simulated: Simulated, small_world: World) -> None:
    items = simulated[0].table("items").read()
    start = dict(zip(items["item_id"].to_pylist(), items["available_from"].to_pylist(), strict=True))
    rows = simulated[0].table("events").read(["item_id", "timestamp"]).to_pylist()
    assert all(row["timestamp"] >= start[row["item_id"]] for row in rows)
    gone = {f"i{number:06d}": day for number, day in enumerate(small_world.items.gone_day_N) if day < 4}
    midnight = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)
    assert all((row["timestamp"] - midnight).days < gone.get(row["item_id"], 4) for row in rows)
    assert gone
    assert {row["item_id"] for row in items.to_pylist() if not row["available"]} == set(gone)
    new = {name for name, moment in start.items() if moment > midnight}
    assert len(new) == 3 * 6
    assert new & {row["item_id"] for row in rows}


def test_more_days_continue_the_same_world(small_config: SimulateConfig) -> None:
    short_config = dataclasses.replace(small_config, days=2)
    short, long = build_world(short_config, 7), build_world(small_config, 7)
    assert users_table(short).equals(users_table(long))
    kept = len(short.items)
    assert kept == 200 + 6
    stable = items_table(short).drop_columns(["available"])
    assert stable.equals(items_table(long).slice(0, kept).drop_columns(["available"]))
    states = State.first(short), State.first(long)
    for day in range(2):
        pages = [simulate_day(world, state, day, 7) for world, state in zip((short, long), states, strict=True)]
        assert events_table(short, pages[0], day).equals(events_table(long, pages[1], day))


def test_pages_of_a_user_do_not_overlap_and_stay_within_their_day(small_world: World) -> None:
    pages = live_through(small_world, 7)
    last = pages.times_R + np.where(pages.stages_RP > 0, pages.delays_RPE[:, :, 2], 0).max(axis=1)
    assert (last // DAY_MS == pages.times_R // DAY_MS).all()
    order = np.lexsort((pages.times_R, pages.users_R))
    same = pages.users_R[order][1:] == pages.users_R[order][:-1]
    assert (pages.times_R[order][1:] > last[order][:-1])[same].all()
    assert (pages.times_R // DAY_MS >= small_world.users.join_day_U[pages.users_R]).all()
    assert (small_world.users.join_day_U > 0).any()


def test_the_funnel_narrows_and_the_top_of_the_page_is_clicked_most(small_world: World) -> None:
    stages = live_through(small_world, 7).stages_RP
    shown, clicked, carted, bought = (int((stages >= stage).sum()) for stage in range(4))
    assert shown > clicked > carted > bought > 0
    assert 0.05 < clicked / shown < 0.15
    rate_P = (stages >= 1).mean(axis=0)
    assert rate_P[0] > 1.5 * rate_P[-1]


def test_a_click_foretells_the_category_of_the_next_one() -> None:
    """The structure a sequence model can learn: the likeliest follow-up need is clicked far above its usual rate."""
    world = build_world(SimulateConfig(users=1_500, items=500, days=6), 3)
    pages = live_through(world, 3)
    row, column = np.nonzero(pages.stages_RP >= 1)
    order = np.lexsort((pages.times_R[row], pages.users_R[row]))
    user, page = pages.users_R[row][order], row[order]
    leaf = world.items.leaf_N[pages.items_RP[row, column]][order]
    next_page = (user[1:] == user[:-1]) & (page[1:] != page[:-1])
    followed = (world.tree.chain_SS.argmax(axis=1)[leaf[:-1]] == leaf[1:])[next_page].mean()
    assert followed > 8 / 48


def test_report_says_how_much_and_where(simulated: Simulated) -> None:
    workspace, report = simulated
    assert report.events[IMPRESSION] == 5 * report.pages
    lines = report.lines()
    assert lines[0] == f"400 users, 218 items, 4 days, {report.pages:,} pages"
    assert lines[-1] == f"oracle: {workspace.path(*ORACLE_FILE)}"
    assert any(f"click {report.events[CLICK] / report.events[IMPRESSION]:.2%}" in line for line in lines)


def test_a_shop_nobody_visits_has_empty_days(tmp_path: Path) -> None:
    config = SimulateConfig(users=1, items=80, candidates=40, days=2, visits_per_day=1e-9, new_items_per_day=0)
    progress: list[str] = []
    report = simulate(config, Workspace(tmp_path), seed=0, progress=progress.append)
    assert report.total_events == 0
    assert progress == ["2025-01-01: 0 events", "2025-01-02: 0 events"]
    assert Workspace(tmp_path).table("events").read().num_rows == 0


@pytest.mark.parametrize("attribute", ["budget", "favourite_department", "device"])
def test_users_have_noisy_observables(small_world: World, attribute: str) -> None:
    values = [dict(row)[attribute] for row in users_table(small_world)["attributes"].to_pylist()]
    assert len(set(values)) > 1


def test_rejects_of_an_earlier_import_go_with_its_events(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    rejects = workspace.table("import_rejects")
    row = {"table": "events", "reason": "cancellation", "detail": "C1", "source": "x.csv", "row": "{}"}
    rejects.commit([rejects.write_part(pa.Table.from_pylist([row], schema=rejects.schema), shard=0)])
    simulate(SimulateConfig(users=5, items=200, days=1), workspace, seed=0)
    assert rejects.manifest().rows == 0
