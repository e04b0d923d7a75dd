"""A shop whose older events were given as files and whose newer ones came by the stream, and a service that is right.

Faults are planted by changing what the service logged.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from batch_cases import DAY, HOUR, START, event, random_events, write_events, write_file

from features.definitions import ITEM, USER, features_of
from features.events import ItemKeys
from features.schemas import FEATURE_LOG, LOG_TABLES
from features.store.feature_codec import features_payloads, features_schema, read_features_payloads
from features.stream.records import position_of
from features.values import ItemSnapshots
from features.workspace import Workspace
from pipelines.batch.arrow import milliseconds
from pipelines.batch.config import BatchConfig, SplitConfig
from pipelines.batch.feature_jobs import build_user_and_item_features
from pipelines.batch.folding import KEY_COLUMNS, item_keys, user_events, user_states
from pipelines.batch.jobs import build_features, validate
from pipelines.feature_check import items, users
from pipelines.feature_check.config import FeatureCheckConfig
from pipelines.feature_check.findings import Findings
from pipelines.feature_check.items import check_items, shown_items
from pipelines.feature_check.job import check_features
from pipelines.feature_check.report import FeatureCheckReport
from pipelines.feature_check.transforms import trained_values
from pipelines.feature_check.users import check_users
from pipelines.streaming.compaction import write_log_file
from pipelines.streaming.log import Range, committed_log, range_file, write_durably

TODAY = 10
"""Number of the day that is checked; events come by the stream from the day before on."""
DATE, FIRST_STREAMED = "2024-03-11", "2024-03-10"
CONFIG = BatchConfig(split=SplitConfig(validation_days=1, test_days=2), shards=3)
NO_DRIFT = FeatureCheckConfig(drift_alert=1e9)
ITEMS = """item_id,title,category,brand,price
i0,Item zero,"[""Home"",""Kitchen""]",Acme,10
i1,Item one,"[""Home""]",Bolt,20
i2,Item two,,Acme,
i3,Item three,"[""Garden""]",,40
"""
LATE, ROBOT = "tardy", "robot"
"""A user whose second event was taken up long after it happened; and one who clicks all day."""
Row = dict[str, Any]


def build_world(folder: Path) -> Workspace:
    """Run the daily job over 12 days of events."""
    rows = random_events(4, 400, users=6, items=5, days=12)
    rows += [event(ROBOT, "i1", "click", TODAY * DAY + minute * 60_000, event_id=f"b{minute}") for minute in range(60)]
    rows += [
        event(LATE, "i1", "click", TODAY * DAY + HOUR, event_id="in time"),
        event(LATE, "i2", "cart", TODAY * DAY + HOUR // 2, event_id="late"),
    ]
    streamed_from = START + (TODAY - 1) * DAY
    workspace = Workspace(folder / "workspace")
    write_events(workspace, [row for row in rows if row["timestamp"] < streamed_from])
    write_file(workspace, "items", "items.csv", ITEMS)
    accept(workspace, [row for row in rows if row["timestamp"] >= streamed_from])
    validate(workspace, CONFIG)
    build_features(workspace, CONFIG)
    build_user_and_item_features(workspace, CONFIG)
    return workspace


def accept(workspace: Workspace, rows: Sequence[Row]) -> None:
    """Let the stream take up each event as it happens, and the late one two hours later."""
    taken = [{**row, "stream_position": position(row["timestamp"], row["event_id"] == "late")} for row in rows]
    table = pa.Table.from_pylist(taken, schema=LOG_TABLES["event_log"])
    commit(workspace, "event_log", table, first=1, last=position(START + 12 * DAY))


def position(time: int, late: bool = False) -> int:
    """Where an event of this time lies on the stream."""
    return position_of(time + 2 * HOUR * late, 0)


def commit(workspace: Workspace, name: str, table: pa.Table, *, first: int, last: int) -> None:
    """Let the stream commit a range with these rows, a file per day."""
    dates = pc.strftime(table.column("timestamp"), format="%Y-%m-%d")
    files = tuple(
        write_log_file(workspace, f"{name}/date={date}", first, last, table.filter(pc.equal(dates, date)))
        for date in pc.unique(dates).to_pylist()
    )
    taken = Range(first=first, last=last, opened=0, watermark=0, done=True, files=files)
    write_durably(workspace, range_file(workspace, last), taken.to_json())


@dataclasses.dataclass
class World:
    """A copy of the shop, and what its service reads."""

    workspace: Workspace
    events: pa.Table
    arrivals: pa.Table
    keys: ItemKeys
    snapshots: ItemSnapshots
    items: list[str]
    logged: int = 0

    @classmethod
    def copy_of(cls, built: Workspace, folder: Path) -> World:
        """Copy what was built."""
        shutil.copytree(built.local_path(), folder)
        return cls.of(Workspace(folder))

    @classmethod
    def of(cls, workspace: Workspace) -> World:
        """Look at what was built."""
        arrivals = committed_log(workspace).read(workspace, "event_log")
        keys = item_keys([workspace.table("clean_items").read(KEY_COLUMNS)])
        item_ids = workspace.table("clean_items").read(["item_id"]).column("item_id").to_pylist()
        snapshots = ItemSnapshots.load(workspace, item_ids)
        return cls(workspace, workspace.table("clean_events").read(), arrivals, keys, snapshots, item_ids)

    def state(
        self, user: str, time: int, change: Callable[[pa.Table], pa.Table] = lambda rows: rows
    ) -> dict[str, object]:
        """What the store holds of a user at a moment; `change` makes other events of those before it."""
        earlier = pc.and_(
            pc.equal(self.events["user_id"], user), pc.less(self.events["timestamp"].cast(pa.int64()), time)
        )
        rows = change(self.events.filter(earlier))
        if not rows.num_rows:
            return {"state": None, "generation": None, "position": None, "event_time": None}
        newest = int(milliseconds(rows["timestamp"]).max())
        state = user_states(*user_events(rows, self.keys)).column("state").to_pylist()[0]
        streamed = newest >= START + (TODAY - 1) * DAY
        return {
            "state": state,
            "generation": 1,
            "position": position(newest) if streamed else 0,
            "event_time": newest,
        }

    def read(self, number: int, user: str, time: int, *, days_back: int = 0) -> Row:
        """What the service reads for a page that shows two items."""
        places = np.array([number % len(self.items), (number + 1) % len(self.items)])
        columns = self.snapshots.at(places, np.full(2, time - days_back * DAY))
        return {
            "request_id": f"r{number:03d}",
            "user_id": user,
            "timestamp": time,
            **self.state(user, time),
            "items": [self.items[place] for place in places],
            "item_features": list(features_payloads(columns)),
            "item_layout": features_schema(),
            "items_read": time - HOUR,
        }

    def reads(self, count: int = 60) -> list[Row]:
        """What a service without a fault reads for pages of the day."""
        rng = np.random.default_rng(1)
        users, times = rng.integers(6, size=count), START + TODAY * DAY + rng.integers(1, DAY, size=count)
        return [
            self.read(number, f"u{user}", int(time))
            for number, (user, time) in enumerate(zip(users, times, strict=True))
        ]

    def log(self, rows: Sequence[Row]) -> None:
        """Let the stream log what was read."""
        self.logged += 1
        last = position(START + 12 * DAY) + self.logged
        table = pa.Table.from_pylist([{**row, "stream_position": last} for row in rows], schema=LOG_TABLES[FEATURE_LOG])
        commit(self.workspace, FEATURE_LOG, table, first=last, last=last)

    def judge(self, rows: Sequence[Row], config: FeatureCheckConfig = NO_DRIFT) -> FeatureCheckReport:
        """Judge what was read with the arithmetic alone, all of it at once."""
        pages = pa.Table.from_pylist([{**row, "stream_position": 1} for row in rows], schema=LOG_TABLES[FEATURE_LOG])
        snapshots = self.workspace.table("item_features").read()
        before = pc.less(snapshots["as_of"].cast(pa.int64()), START + (TODAY + 1) * DAY)
        trained = self.workspace.table("page_features").read()
        parts = [
            check_users(
                pages.select(users.READ_COLUMNS),
                self.events,
                self.arrivals.select(users.ARRIVAL_COLUMNS),
                self.keys,
                covered=position(START + 12 * DAY),
                lag_ms=round(config.stale_after_s * 1000),
            ),
            check_items(shown_items(pages.select(items.READ_COLUMNS)), snapshots.filter(before), config.item_days),
            trained_values(trained.filter(pc.less(trained["timestamp"].cast(pa.int64()), START + 9 * DAY))),
        ]
        names = [feature.name for entity in (USER, ITEM) for feature in features_of(entity)]
        return FeatureCheckReport.of(DATE, Findings.together(parts), config, names, (), "nowhere")

    def check(self, config: FeatureCheckConfig = NO_DRIFT, **options: Any) -> FeatureCheckReport:
        """Check the day."""
        return check_features(self.workspace, config, options.pop("batch", CONFIG), **options)


def mismatched(report: FeatureCheckReport) -> set[str]:
    """Features with any mismatch."""
    return {one.name for one in report.features if one.mismatch_rate}


def alerts(report: FeatureCheckReport) -> list[str]:
    """What the alerts are about."""
    return [alert.split(":")[0] for alert in report.alerts]


def other_trend(payloads: list[bytes]) -> list[bytes]:
    """Item features with a trend that was computed otherwise."""
    columns = read_features_payloads(payloads)
    assert columns is not None
    return list(
        features_payloads(
            dataclasses.replace(
                columns, numbers={**columns.numbers, "item_trend": columns.numbers["item_trend"] + np.float32(0.5)}
            )
        )
    )


def twice(rows: pa.Table) -> pa.Table:
    """Events, the newest of them again."""
    newest = rows.sort_by([("timestamp", "descending")]).slice(0, 1)
    return pa.concat_tables([rows, newest])


def without_newest(rows: pa.Table) -> pa.Table:
    """Events before the newest moment that has any."""
    return rows.filter(pc.less(rows["timestamp"], pc.max(rows["timestamp"])))


def carts_as_clicks(rows: pa.Table) -> pa.Table:
    """Events as a stream with another definition takes them."""
    kinds = rows.column("event")
    return rows.set_column(
        rows.schema.get_field_index("event"),
        rows.schema.field("event"),
        pc.if_else(pc.equal(kinds, "cart"), "click", kinds).combine_chunks(),
    )


def item_feature_names() -> set[str]:
    """Names of the features of items."""
    return {feature.name for feature in features_of(ITEM)}
