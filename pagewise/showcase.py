"""What the demo does and shows beyond the daily job: the marketplace, one user's page, where to look and go next."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import datetime as dt
import itertools
import json
import threading
import time
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.schemas import POSITIVE_CODES, TEST
from features.workspace import Workspace
from models.recommend.release import load_release
from models.registry import CHAMPION, Registry
from models.training.tracking import tracking_uri
from pagewise.settings import Settings
from pipelines.batch.raw import given_files
from pipelines.jobs.daily import DailyReport
from pipelines.jobs.stages import Stage, run_stage, table_fingerprints
from pipelines.replay.report import VERDICT
from pipelines.simulator.config import SimulateConfig
from pipelines.simulator.job import DATASET, simulate
from pipelines.simulator.replay_truth import true_difference
from pipelines.simulator.truth import true_rewards
from pipelines.streaming.run import run_stream
from serving.run import start_background

RAW = ("events", "items", "users")
RECALLED = ("validate", "train-two-tower", "semantic-ids", "train-genrec", "train-ranker", "align", "evaluate")
"""Stages whose reports the demo shows even when they were up to date."""
SHOWN_HISTORY = 8
CLICK_TIMEOUT_S = 60.0
TYPICAL_HISTORY = 12
"""The demo's user is the one whose number of history items is closest to this."""


def until_yesterday(workspace: Workspace, settings: Settings, today: dt.date) -> Settings:
    """Let the marketplace's last day be yesterday, unless `simulate.start` was set: so clicks of today continue it.

    A marketplace that the workspace holds stays where it is in time.
    """
    config, table = settings.simulate, workspace.table("events")
    if config.start != SimulateConfig().start:
        return settings
    start = str(today - dt.timedelta(days=config.days))
    standing = table.manifest().notes.get("config", {}) if table.exists() else {}
    if standing == {**dataclasses.asdict(config), "start": standing.get("start")}:
        start = standing["start"]
    return dataclasses.replace(settings, simulate=dataclasses.replace(config, start=start))


def simulated(workspace: Workspace, settings: Settings, progress: Callable[[str], None]) -> list[str]:
    """Simulate the marketplace unless the workspace holds just this one; return the lines of its report.

    Raises:
        ValueError: The workspace holds other data, which the simulation would replace.
    """
    _refuse_other_data(workspace)
    stage = Stage(
        name="simulate",
        config={"simulate": dataclasses.asdict(settings.simulate), "seed": settings.seed},
        inputs=dict,
        outputs=lambda folder: table_fingerprints(workspace, *RAW),
        run=lambda folder: simulate(settings.simulate, workspace, settings.seed, progress).lines(),
    )
    return list(run_stage(workspace, stage).report)


def _refuse_other_data(workspace: Workspace) -> None:
    for name in RAW:
        table = workspace.table(name)
        committed = table.exists()
        dataset = table.manifest().notes.get("dataset") if committed else None
        if (committed and dataset != DATASET) or given_files(workspace, name):
            raise ValueError(
                f"workspace {workspace.uri} holds the table {name!r} of {dataset or 'your own data'}, which the demo "
                "would replace; give it a workspace of its own: --workspace FOLDER (make demo WORKSPACE=FOLDER)"
            )


def recalled(report: DailyReport) -> list[str]:
    """Return what the skipped stages reported when they ran."""
    lines: list[str] = []
    for stage in report.stages:
        if stage.skipped and stage.name in RECALLED:
            lines += [f"[{stage.name}, as it was reported when it ran]", *(f"  {line}" for line in stage.report)]
    return lines


def worth(workspace: Workspace, settings: Settings, progress: Callable[[str], None]) -> list[str]:
    """Return what the champion's pages are really worth, and what their parts would be worth alone."""
    release = Registry(workspace, settings.tracking.uri).resolve(CHAMPION)
    progress(f"asking the simulator's oracle about pages of release {release.name}")
    found = true_rewards(workspace, load_release(release).recommender, TEST, settings.seed)
    return [
        "expected per page of ten, by the marketplace's secret truth, on requests of the test split:",
        *(
            f"  {name:<12} {click[0]:.3f} +- {click[1]:.3f} clicks   {bought[0]:.3f} +- {bought[1]:.3f} purchases"
            for name, rewards in found.items()
            for click, bought in [(rewards["click"], rewards["purchase"])]
        ),
        "(the evaluation above counts logged clicks, which favour what was shown then; here nothing is biased)",
    ]


def replayed(
    workspace: Workspace, settings: Settings, report: DailyReport, progress: Callable[[str], None]
) -> list[str]:
    """Return the replay's verdict about the release, and beside it what it should have found."""
    stage = report.stage("replay")
    verdict = json.loads((Path(stage.folder) / VERDICT).read_bytes())
    lines = [
        "the question: had this release ordered the candidates of the logged pages, would its pages have earned more "
        "clicks than those that were shown?",
        "the answer from the log alone, weighing each page by how much likelier the release would have made it:",
        *(f"  {line}" for line in itertools.takewhile(lambda line: not line.startswith("  rule"), stage.report)),
    ]
    if "verdict" not in verdict:
        return lines
    progress("asking the simulator's oracle about both policies on the same pages")
    config = dataclasses.replace(settings.replay, champion=report.against, challenger=report.release_id, logs=None)
    truth = true_difference(workspace, config, tracking_uri=settings.tracking.uri)
    right = {"ship": truth.difference > config.margin, "do_not_ship": truth.difference < config.margin}
    agrees = {True: "the verdict is right", False: "the verdict is wrong", None: "the verdict leaves it open"}
    interval = f" +- {truth.half_width:.3f}" if truth.half_width else ""
    return [
        *lines,
        f"the truth, which only a simulated marketplace knows, on {truth.pages:,} of these pages and their candidates:",
        f"  {truth.challenger:.3f} clicks per page by the release, {truth.champion:.3f} by who made the logs: "
        f"{truth.difference:+.3f}{interval}; {agrees[right.get(verdict['verdict'])]}",
        f"the whole report, one file for the browser: {_report_of(stage.report)}",
    ]


def _report_of(lines: Sequence[str]) -> str:
    """Return the path that the replay named."""
    return next((line.rpartition("report: ")[2] for line in lines if "; report: " in line), "none")


def served_page(workspace: Workspace, settings: Settings, progress: Callable[[str], None]) -> list[str]:
    """Start service and stream, ask for a user's page, let a newcomer click, stop them; return what to show."""
    user = typical_user(workspace)
    titles = _titles(workspace)
    release = Registry(workspace, settings.tracking.uri).resolve(CHAMPION)
    progress(f"starting release {release.name}, and the streaming pipeline beside it")
    serve = dataclasses.replace(settings.serve, port=0)
    with start_background(workspace, release, settings.store, serve, stream_config=settings.stream) as service:
        page = call(f"{service.url}/v1/recommend", {"user_id": user, "page_size": 10})
        known = call(f"{service.url}/v1/users/{urllib.parse.quote(user)}?limit={SHOWN_HISTORY}")
        with taking_up_events(workspace, settings):
            changed = _newcomer_lines(service.url, titles)
    return [
        f"release {page['release']} at {service.url}, policy {page['policy']}",
        f"user {user}, the last {len(known['history'])} items of their history:",
        *(f"      {item['title'] or item['item_id']}" for item in known["history"]),
        f"POST /v1/recommend -> page {page['request_id']}:",
        *_page_lines(page, titles),
        *changed,
    ]


@contextlib.contextmanager
def taking_up_events(workspace: Workspace, settings: Settings) -> Iterator[None]:
    """Run the streaming pipeline (`pagewise stream`) beside what happens inside the block."""
    stopping, ready = threading.Event(), threading.Event()
    quiet = dataclasses.replace(settings.stream, metrics_port=None)
    with concurrent.futures.ThreadPoolExecutor(1, "stream") as beside:
        running = beside.submit(
            run_stream,
            workspace,
            quiet,
            settings.store,
            settings.batch.pages,
            stopping=stopping,
            ready=lambda _: ready.set(),
        )
        running.add_done_callback(lambda _: ready.set())
        ready.wait()
        try:
            yield
        finally:
            stopping.set()
            running.result()


def _newcomer_lines(url: str, titles: Mapping[str, str]) -> list[str]:
    """Let somebody new see a page and click on it; return that page, the next one, and how long the click took."""
    user = f"newcomer {uuid.uuid4().hex[:8]}"
    before = call(f"{url}/v1/recommend", {"user_id": user, "page_size": 3})
    chosen = before["items"][0]["item_id"]
    click = {"user_id": user, "item_id": chosen, "event": "click", "request_id": before["request_id"], "position": 0}
    call(f"{url}/v1/events", {**click, "timestamp": time.time_ns() // 1_000_000})
    accepted = time.monotonic()
    while not call(f"{url}/v1/users/{urllib.parse.quote(user)}")["history"]:
        if time.monotonic() - accepted > CLICK_TIMEOUT_S:
            raise TimeoutError(f"the click was accepted, but not readable within {CLICK_TIMEOUT_S:g} s")
        time.sleep(0.02)
    readable = time.monotonic() - accepted
    after = call(f"{url}/v1/recommend", {"user_id": user, "page_size": 3})
    return [
        f"{user} -> the {before['fallback']} list:",
        *_page_lines(before, titles),
        f"a click on {titles.get(chosen, chosen)} (POST /v1/events) goes through the stream; {readable:.2f} s later "
        "the service knows it, and the next page is:",
        *_page_lines(after, titles),
    ]


def call(url: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """GET a URL, or POST a body to it, and return the JSON answer."""
    content = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(
        urllib.request.Request(url, content, {"content-type": "application/json"}), timeout=30
    ) as answer:
        document: dict[str, Any] = json.load(answer)
    return document


def typical_user(workspace: Workspace) -> str:
    """Return the user of the test split whose history has the most typical length."""
    rows = workspace.table("sequences").read(["user_id", "split", "events"])
    events = rows["events"].combine_chunks()
    positive = pc.is_in(pc.list_flatten(events), value_set=pa.array(POSITIVE_CODES, pa.int8()))
    owners = np.asarray(pc.list_parent_indices(events))[np.asarray(positive)]
    users, row_users = np.unique(np.asarray(rows["user_id"].to_pylist()), return_inverse=True)
    lengths = np.bincount(row_users[owners], minlength=len(users))
    tested = np.unique(row_users[np.asarray(pc.equal(rows["split"], TEST))])
    return str(users[tested[np.argmin(np.abs(lengths[tested] - TYPICAL_HISTORY))]])


def _titles(workspace: Workspace) -> dict[str, str]:
    items = workspace.table("clean_items").read(["item_id", "title"])
    return dict(zip(items["item_id"].to_pylist(), items["title"].to_pylist(), strict=True))


def _page_lines(page: dict[str, Any], titles: Mapping[str, str]) -> list[str]:
    return [
        f"  {place:2d}. {titles.get(item['item_id'], item['item_id'])}  ({item['source']}, {item['score']:.4f})"
        for place, item in enumerate(page["items"], start=1)
    ]


def places(workspace: Workspace, report: DailyReport) -> list[str]:
    """Return where tables, models, reports and releases lie."""
    named = (
        ("tables", workspace.path("tables")),
        ("semantic IDs", workspace.path("semantic_ids")),
        ("models", workspace.path("checkpoints")),
        ("evaluation", f"{report.stage('evaluate').folder} (report.json, plots, sample pages)"),
        ("release", workspace.path("releases", report.release_id)),
        ("MLflow", f"mlflow ui --backend-store-uri {quote(tracking_uri(workspace))}"),
    )
    return [f"  {name:<13} {place}" for name, place in named]


def suggestions(workspace: str) -> Sequence[str]:
    """Return commands worth trying after the demo."""
    return (
        f"  pagewise serve --workspace {workspace}      keeps the service up; its API is described at /docs",
        f"  pagewise evaluate --workspace {workspace} evaluate.exclude_seen=true",
        f"  pagewise run --workspace {workspace} --preset demo genrec.layers=3      another model, the same data",
        "  make demo SEED=1      another marketplace",
        "  docs/own_data.md      the same with your own events and items",
    )
