"""The stage that folds events into features: `page_features`, `item_features`, `user_states`."""

from __future__ import annotations

import time
from collections.abc import Sequence

import apache_beam as beam
import numpy as np

from features.definitions import ITEM_FEATURES, PAGE_FEATURES, USER_STATES, Feature, features_digest
from features.workspace import Manifest, Workspace
from pipelines.batch.arrow import DAY_MS
from pipelines.batch.config import BatchConfig
from pipelines.batch.folding import ANCHOR_COLUMNS, EVENT_COLUMNS, KEY_COLUMNS
from pipelines.batch.folding_transforms import EVENTS, PAGES, PAIRS, CatalogueKeys, FoldItems, FoldUsers
from pipelines.batch.stage import check_equal, make_report, run_stage
from pipelines.batch.transforms import COUNTS, ReadTable, WriteShards
from pipelines.report import StageReport

WRITTEN = (PAGE_FEATURES, ITEM_FEATURES, USER_STATES)


def build_user_and_item_features(
    workspace: Workspace,
    config: BatchConfig,
    beam_options: Sequence[str] = (),
    features: Sequence[Feature] | None = None,
) -> StageReport:
    """Fold clean events into `page_features`, `item_features` and `user_states`.

    Values of a page and of a midnight come from strictly earlier events, whatever their split; the states hold all
    events, for requests that come later.

    Args:
        workspace: `validate` and `build_features` have run in it.
        config: Uses `shards`, which changes no row.
        beam_options: Beam's own options; default: in this process.
        features: Default `features.definitions.FEATURES`.

    Raises:
        MissingTableError: An earlier stage has not run.
    """
    started = time.monotonic()
    tables = {name: workspace.table(name) for name in ("clean_events", "clean_items", "pages")}
    manifests = {name: table.manifest() for name, table in tables.items()}
    inputs = {name: manifest.fingerprint for name, manifest in manifests.items()}
    inputs["features"] = features_digest(features)
    end_ms = _last_midnight(manifests["clean_events"])

    def build(pipeline: beam.Pipeline, uri: str) -> list[beam.PCollection]:
        events = pipeline | "events" >> ReadTable(uri, tables["clean_events"], EVENT_COLUMNS)
        pages = pipeline | "pages" >> ReadTable(uri, tables["pages"], ANCHOR_COLUMNS)
        items = pipeline | "items" >> ReadTable(uri, tables["clean_items"], KEY_COLUMNS) | "keys" >> CatalogueKeys()
        of_users = {EVENTS: events, PAGES: pages, "items": items} | "fold users" >> FoldUsers(config.shards, features)
        of_items = {EVENTS: events, PAIRS: of_users[PAIRS], "items": items} | "fold items" >> FoldItems(
            config.shards, end_ms, features
        )
        rows = {name: of_items[name] if name == ITEM_FEATURES else of_users[name] for name in WRITTEN}
        written = [rows[name] | f"write {name}" >> WriteShards(uri, name, features) for name in WRITTEN]
        return [*written, of_users[COUNTS], of_items[COUNTS]]

    summary = run_stage("user_and_item_features", workspace, inputs, config, beam_options, build)
    for counted in ("clean_events", "item_events"):
        check_equal(counted, manifests["clean_events"].rows, summary.count(f"{counted}.in"))
    check_equal("pages", manifests["pages"].rows, summary.count("pages.in"))
    check_equal(PAGE_FEATURES, summary.count("pages.in"), summary.rows(PAGE_FEATURES))
    counts = {f"{name}.in": summary.count(f"{name}.in") for name in ("clean_events", "pages")}
    for name in WRITTEN:
        counts[f"{name}.out"] = summary.rows(name)
        workspace.table(name, features).commit(
            summary.files.get(name, []),
            inputs=inputs,
            counts={"in": manifests["clean_events"].rows, "out": summary.rows(name)},
            notes=manifests["pages"].notes,
        )
    return make_report("user_and_item_features", workspace, counts, started, list(WRITTEN))


def _last_midnight(events: Manifest) -> int:
    """Return the midnight behind the last event: the parts of `clean_events` lie in folders `date=`."""
    days = [np.datetime64(entry.path.split("/")[0].removeprefix("date="), "D") for entry in events.files]
    return (int(max(days).astype(np.int64)) + 1) * DAY_MS
