"""The stage that folds events into features: `page_features`, `item_features`, `user_states`, `item_states`.

New events are folded into the states that stand; only the values they change are computed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import apache_beam as beam
import numpy as np

from features.definitions import ITEM_FEATURES, ITEM_STATES, PAGE_FEATURES, USER_STATES, Feature, features_digest
from features.workspace import FileEntry, Manifest, Workspace
from pipelines.batch.arrow import DAY_MS
from pipelines.batch.config import BatchConfig
from pipelines.batch.feature_plan import FeaturePlan, check_catalogue, make_plan
from pipelines.batch.fold_new_transforms import (
    CHANGES,
    FRESH_COLUMNS,
    REGRESSED,
    STATES,
    FoldNewItems,
    FoldNewUsers,
    PairsOf,
    rows_among,
)
from pipelines.batch.folding import ANCHOR_COLUMNS, EVENT_COLUMNS, KEY_COLUMNS
from pipelines.batch.folding_transforms import EVENTS, PAGES, PAIRS, CatalogueKeys, FoldItems, FoldUsers
from pipelines.batch.increment import (
    CLEAN,
    FRESH,
    SETTINGS,
    SOFTWARE,
    CannotFoldError,
    date_of,
    file_inputs,
    fresh_events,
    made_with,
    merged_entries,
    require_equal,
    standing,
)
from pipelines.batch.merge import ADDED, REMOVED, MergeByDay
from pipelines.batch.runner import Summary
from pipelines.batch.stage import check_equal, make_report, run_stage
from pipelines.batch.transforms import COUNTS, SORT_KEYS, ReadTable, WriteByDay, WriteShards
from pipelines.report import StageReport

WRITTEN = (PAGE_FEATURES, ITEM_FEATURES, USER_STATES, ITEM_STATES)
_BY_DAY = (PAGE_FEATURES, ITEM_FEATURES)


def build_user_and_item_features(
    workspace: Workspace,
    config: BatchConfig,
    beam_options: Sequence[str] = (),
    features: Sequence[Feature] | None = None,
) -> StageReport:
    """Fold clean events into `page_features`, `item_features`, `user_states` and `item_states`.

    Values of a page and of a midnight come from strictly earlier events, whatever their split; the states hold all
    events, for requests that come later, and for the next run: new events are folded into them.

    Args:
        workspace: `validate` and `build_features` have run in it.
        config: Uses `shards`, which changes no row.
        beam_options: Beam's own options; default: in this process.
        features: Default `features.definitions.FEATURES`.

    Raises:
        MissingTableError: An earlier stage has not run.
    """
    started = time.monotonic()
    job = _Folding(workspace, config, beam_options, features)
    try:
        files, note = job.fold()
    except CannotFoldError as reason:
        files, note = job.compute(), f"all values were computed: {reason}"
    rows_in = {name: job.manifests[name].rows for name in (CLEAN, "pages")}
    rows_out = {name: sum(entry.rows for entry in files[name]) for name in WRITTEN}
    check_equal(PAGE_FEATURES, rows_in["pages"], rows_out[PAGE_FEATURES])
    for name in WRITTEN:
        workspace.table(name, features).commit(
            files[name],
            inputs=job.inputs,
            counts={"in": rows_in[CLEAN], "out": rows_out[name]},
            notes=job.manifests["pages"].notes,
        )
    counts = {f"{name}.in": rows for name, rows in rows_in.items()} | {f"{n}.out": rows for n, rows in rows_out.items()}
    return make_report("user_and_item_features", workspace, counts, started, list(WRITTEN), [note])


class _Folding:
    """One run of the stage."""

    def __init__(
        self,
        workspace: Workspace,
        config: BatchConfig,
        beam_options: Sequence[str],
        features: Sequence[Feature] | None,
    ) -> None:
        self.workspace, self.config, self.beam_options, self.features = workspace, config, beam_options, features
        self.tables = {name: workspace.table(name) for name in (CLEAN, "clean_items", "pages")}
        self.manifests = {name: table.manifest() for name, table in self.tables.items()}
        self.inputs = {name: manifest.fingerprint for name, manifest in self.manifests.items()}
        self.inputs |= made_with(shards=config.shards, features=features_digest(features))
        self.inputs |= file_inputs("pages", self.manifests["pages"].files)

    def compute(self) -> dict[str, list[FileEntry]]:
        """Fold all events."""
        end_ms, features = _last_midnight(self.manifests[CLEAN]), self.features

        def build(pipeline: beam.Pipeline, uri: str) -> list[beam.PCollection]:
            sides = self._catalogue(pipeline, uri)
            events = pipeline | "events" >> ReadTable(uri, self.tables[CLEAN], EVENT_COLUMNS)
            pages = pipeline | "pages" >> ReadTable(uri, self.tables["pages"], ANCHOR_COLUMNS)
            of_users = {EVENTS: events, PAGES: pages, **sides} | "fold users" >> FoldUsers(self.config.shards, features)
            of_items = {EVENTS: events, PAIRS: of_users[PAIRS], **sides} | "fold items" >> FoldItems(
                self.config.shards, end_ms, features
            )
            rows = {name: (of_users if name in (PAGE_FEATURES, USER_STATES) else of_items)[name] for name in WRITTEN}
            write = {name: WriteByDay(uri, name, self.config.shards, features) for name in _BY_DAY}
            write |= {name: WriteShards(uri, name, features) for name in (USER_STATES, ITEM_STATES)}
            written = [rows[name] | f"write {name}" >> write[name] for name in WRITTEN]
            return [*written, of_users[COUNTS], of_items[COUNTS]]

        summary = self._run(build)
        for counted in (CLEAN, "item_events"):
            check_equal(counted, self.manifests[CLEAN].rows, summary.count(f"{counted}.in"))
        check_equal("pages", self.manifests["pages"].rows, summary.count("pages.in"))
        return {name: summary.files.get(name, []) for name in WRITTEN}

    def fold(self) -> tuple[dict[str, list[FileEntry]], str]:
        """Fold the new events.

        Raises:
            CannotFoldError: Something else has changed, or took away what was the newest of an item.
        """
        if self.features is not None:
            raise CannotFoldError("features were given")
        before = standing(self.workspace.table(name) for name in WRITTEN)
        known = before[USER_STATES].inputs
        require_equal(known, self.inputs, SETTINGS, SOFTWARE)
        check_catalogue(self.workspace)
        fresh = fresh_events(self.workspace, known.get(CLEAN))
        rows = fresh.read(["user_id", "timestamp"])
        first = self._first_changed_page_day(known)
        if not rows.num_rows:
            require_equal(known, self.inputs, "pages")
            return {name: list(before[name].files) for name in WRITTEN}, "no new event: all values stay"
        events_day = min(date_of(entry) for entry in fresh.manifest().files)
        midnights = _last_events_midnight(before[ITEM_FEATURES]), _last_midnight(self.manifests[CLEAN])
        plan = make_plan(self.workspace, rows, min(first, events_day), midnights[0])
        summary = self._fold(plan, midnights)
        check_equal(FRESH, rows.num_rows, summary.count(f"{FRESH}.in"))
        check_equal(f"item_{FRESH}", rows.num_rows, summary.count(f"item_{FRESH}.in"))
        check_equal("anchors", plan.anchors.num_rows, summary.count("anchors.in"))
        if summary.count(REGRESSED):
            raise CannotFoldError(f"late events took the newest co-visit from {summary.count(REGRESSED)} items")
        files = {name: merged_entries(before[name], summary) for name in _BY_DAY}
        files |= {name: summary.files.get(name, []) for name in (USER_STATES, ITEM_STATES)}
        pages = f"{plan.anchors.num_rows:,} of {self.manifests['pages'].rows:,} pages"
        late = f"{len(plan.replayed):,} users and {len(plan.items):,} items"
        return files, f"{rows.num_rows:,} new events: values of {pages} were computed, from all events those of {late}"

    def _fold(self, plan: FeaturePlan, midnights: tuple[int, int]) -> Summary:
        shards, tables = self.config.shards, {name: self.workspace.table(name) for name in (*WRITTEN, FRESH)}
        far, near = plan.user_days

        def build(pipeline: beam.Pipeline, uri: str) -> list[beam.PCollection]:
            sides = self._catalogue(pipeline, uri)
            fresh = pipeline | "fresh" >> ReadTable(uri, tables[FRESH], FRESH_COLUMNS)
            events = [pipeline | "near" >> self._events(uri, since=near)]
            if far < near:
                old = pipeline | "far" >> self._events(uri, since=far, before=near)
                events.append(old | "of replayed users" >> beam.Map(rows_among, "user_id", plan.replayed))
            users = {
                "fresh": fresh,
                "events": events | "events of users" >> beam.Flatten(),
                "anchors": pipeline | "anchors" >> beam.Create([plan.anchors.select(ANCHOR_COLUMNS)]),
                "states": pipeline | "user states" >> ReadTable(uri, tables[USER_STATES]),
                **sides,
            } | "fold users" >> FoldNewUsers(shards, plan.replayed, None)
            items = {
                "fresh": fresh,
                CHANGES: users[CHANGES],
                STATES: pipeline | "item states" >> ReadTable(uri, tables[ITEM_STATES]),
                **self._replayed_items(pipeline, uri, plan, sides),
                **sides,
            } | "fold items" >> FoldNewItems(shards, midnights, None)
            gone = pipeline | "values that go" >> beam.Create([plan.removed])
            changes = {PAGE_FEATURES: {ADDED: users[PAGE_FEATURES], REMOVED: gone}}
            changes[ITEM_FEATURES] = {ADDED: items[ADDED], REMOVED: items[REMOVED]}
            merged = [changes[name] | f"merge {name}" >> MergeByDay(uri, tables[name], shards) for name in _BY_DAY]
            states = [
                users[USER_STATES] | "write user states" >> WriteShards(uri, USER_STATES),
                items[ITEM_STATES] | "write item states" >> WriteShards(uri, ITEM_STATES),
            ]
            return [*merged, *states, users[COUNTS], items[COUNTS]]

        return self._run(build)

    def _replayed_items(
        self, pipeline: beam.Pipeline, uri: str, plan: FeaturePlan, sides: Mapping[str, beam.PCollection]
    ) -> dict[str, beam.PCollection]:
        """Return all that late events may change of items: events, pairs and keys of values."""
        if not len(plan.items):
            return {name: pipeline | f"no {name}" >> beam.Create([]) for name in ("events", "pairs", "keys")}
        events = pipeline | "events of items" >> self._events(uri, since=plan.item_day)
        keys = pipeline | "values" >> ReadTable(uri, self.workspace.table(ITEM_FEATURES), SORT_KEYS[ITEM_FEATURES])
        return {
            "events": events | "of late items" >> beam.Map(rows_among, "item_id", plan.items),
            "pairs": {"events": events, **sides} | "pairs" >> PairsOf(self.config.shards, plan.items),
            "keys": keys | "of late values" >> beam.Map(rows_among, "item_id", plan.items),
        }

    def _events(self, uri: str, *, since: str, before: str | None = None) -> ReadTable:
        return ReadTable(uri, self.tables[CLEAN], FRESH_COLUMNS, since=since, before=before)

    def _catalogue(self, pipeline: beam.Pipeline, uri: str) -> dict[str, beam.PCollection]:
        rows = pipeline | "items" >> ReadTable(uri, self.tables["clean_items"], KEY_COLUMNS)
        return {"catalogue": rows, "keys_of_items": rows | "keys" >> CatalogueKeys()}

    def _first_changed_page_day(self, known: Mapping[str, str]) -> str:
        """Return the first day of which the pages are not what they were."""
        now = {name: digest for name, digest in self.inputs.items() if name.startswith("pages/")}
        then = {name: digest for name, digest in known.items() if name.startswith("pages/")}
        changed = {name for name in {**now, **then} if now.get(name) != then.get(name)}
        return min((name.split("/")[1].removeprefix("date=") for name in changed), default="9999-12-31")

    def _run(self, build: Callable[[beam.Pipeline, str], list[beam.PCollection]]) -> Summary:
        return run_stage("user_and_item_features", self.workspace, self.inputs, self.config, self.beam_options, build)


def _last_midnight(events: Manifest) -> int:
    """Return the midnight behind the last event: the parts of `clean_events` lie in folders `date=`."""
    days = [np.datetime64(date_of(entry), "D") for entry in events.files]
    return (int(max(days).astype(np.int64)) + 1) * DAY_MS


def _last_events_midnight(item_features: Manifest) -> int:
    """Return the last midnight that has values: the one behind the last event then."""
    return _last_midnight(item_features) - DAY_MS
