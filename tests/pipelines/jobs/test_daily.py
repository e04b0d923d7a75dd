"""The daily job on a tiny simulated marketplace, with all real components."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import redis

from features.definitions import ITEM_FEATURES
from features.store.redis_store import open_store
from features.workspace import Workspace
from models.alignment.config import AlignConfig
from models.genrec.config import GenRecConfig
from models.ranker.config import RankerConfig
from models.recommend.release import golden_requests, load_release
from models.registry import CHALLENGER, CHAMPION, Registry
from models.tokenizer.config import SemanticIdConfig
from models.training.config import TrainConfig
from models.training.genrec_run import newest_genrec
from models.training.runs import Runs
from models.two_tower.config import TwoTowerConfig
from pagewise.main import main
from pagewise.settings import Settings
from pipelines.evaluation.config import EvaluateConfig
from pipelines.jobs.daily import DailyReport, run_daily
from pipelines.jobs.daily_stages import DailyStages
from pipelines.jobs.lock import LockedError, exclusive
from pipelines.jobs.measure import measure
from pipelines.jobs.model_stages import ModelStages
from pipelines.jobs.settings import answers_of
from pipelines.jobs.stages import run_stage
from pipelines.replay.config import ReplayConfig
from pipelines.replay.verdicts import deciding_options
from pipelines.simulator.config import SimulateConfig
from pipelines.simulator.job import simulate

pytestmark = pytest.mark.integration

TABLE_STAGES = ["validate", "features", "sequences"]
MODEL_STAGES = ["train-two-tower", "semantic-ids", "train-genrec", "train-ranker", "align"]
LAST_STAGES = ["evaluate", "release", "store", "replay", "register"]
SETTINGS = Settings(
    simulate=SimulateConfig(users=150, items=200, days=8),
    two_tower=TwoTowerConfig(
        item_dimensions=8, feature_dimensions=4, hidden=(16,), batch_size=64, uniform_negatives=64, ssl_batch_size=64
    ),
    two_tower_train=TrainConfig(epochs=1, threads=1),
    ranker=RankerConfig(rows=500, dimensions=4, probes=1, deep_widths=(16,), attention_width=4, attention_heads=1),
    ranker_train=TrainConfig(epochs=1, threads=1, monitor="auc"),
    semantic_ids=SemanticIdConfig(
        levels=2,
        codes=16,
        text_dimensions=8,
        collaborative_dimensions=4,
        max_collision_rate=1.0,
        min_code_share=0.0,
        min_perplexity=0.0,
    ),
    genrec=GenRecConfig(layers=1, width=16, heads=2, kv_heads=1, ffn_width=16),
    train=TrainConfig(epochs=1, threads=1),
    align=AlignConfig(group=4, steps=2, pages_per_step=8, evaluate_every_steps=1, validation_pages=50, tolerance=1.0),
    evaluate=EvaluateConfig(resamples=20, max_cases=100),
)


CHANGED = dataclasses.replace(
    SETTINGS, recommend=dataclasses.replace(SETTINGS.recommend, epsilon=0.2, int8_tables=True)
)
"""Other pages of the same models."""


def daily(workspace: Workspace, settings: Settings = SETTINGS, force: bool = False) -> DailyReport:
    return run_daily(settings, workspace, lambda line: None, force=force)


def ran(report: DailyReport) -> list[str]:
    return [stage.name for stage in report.stages if not stage.skipped]


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> tuple[Workspace, DailyReport]:
    workspace = Workspace(tmp_path_factory.mktemp("daily"))
    simulate(SETTINGS.simulate, workspace, seed=0)
    return workspace, daily(workspace)


def test_the_first_run_ends_with_a_champion_that_answers(job):
    workspace, report = job
    assert ran(report) == TABLE_STAGES + MODEL_STAGES + LAST_STAGES
    assert (report.version, report.promoted_by) == (1, "first")
    release = load_release(Registry(workspace).resolve(CHAMPION))
    assert release.manifest.release_id == report.release_id
    evaluation = json.loads((Path(report.stage("evaluate").folder) / "report.json").read_text())
    names = [result["name"] for result in evaluation["results"]]
    assert names == ["page", "fusion", "genrec", "transitions", "two_tower", "popular"]
    assert release.manifest.metrics["hr_at_10"] == evaluation["results"][0]["metrics"]["hr_at_10"]["mean"]
    assert set(release.manifest.runs) == {"genrec", "two_tower", "ranker"}
    assert release.recommender.ranker is not None
    assert release.manifest.runs["genrec"] == newest_genrec(workspace) != Runs(workspace, "genrec").latest()
    requests = golden_requests(workspace, release.recommender.catalogue)
    assert all(len(page.items) == 10 for page in release.recommender.pages(requests))
    with open_store(SETTINGS.store, workspace) as store:
        users = workspace.table("sequences").read(["user_id"]).column("user_id").to_pylist()
        assert len(store.histories(users[:1], 100).item_ids) > 0
        assert store.freshness().items == len(release.recommender.catalogue)


def test_a_second_run_skips_everything_and_says_the_same(job):
    workspace, first = job
    report = daily(workspace)
    assert ran(report) == []
    assert (report.release_id, report.version, report.promoted_by) == (first.release_id, 1, "first")
    assert "none, all were up to date" in report.lines()[0]


@pytest.fixture(scope="module")
def changed(job) -> tuple[DailyReport, list[str]]:
    """What the job reports and tells of a changed section."""
    told: list[str] = []
    return run_daily(CHANGED, job[0], told.append), told


def test_a_changed_section_runs_what_depends_on_it(job, changed):
    workspace, _ = job
    report, _ = changed
    assert ran(report) == ["evaluate", "release", "replay", "register"]
    assert (report.version, report.promoted_by) == (2, None)
    registry = Registry(workspace)
    assert (registry.version(CHALLENGER), registry.version(CHAMPION)) == (2, 1)
    # back again: the evaluation is found, and the first release is the newest one
    assert ran(daily(workspace)) == ["release", "register"]
    assert (registry.version(CHALLENGER), registry.version(CHAMPION)) == (1, 1)
    forced = daily(workspace, CHANGED, force=True)
    assert (forced.version, forced.promoted_by, registry.version(CHAMPION)) == (2, "force", 2)
    assert (registry.rollback(), registry.version(CHAMPION)) == (1, 1)


def test_a_release_is_replayed_and_its_verdict_promotes_it(job, changed):
    workspace, first = job
    verdict = json.loads((Path(first.stage("replay").folder) / "verdict.json").read_text())
    assert (first.against, verdict["challenger"], verdict["champion"]) == ("logged", first.release_id, None)
    assert verdict["verdict"] == "not_enough_evidence"
    assert "users" in {check["name"] for check in verdict["checks"] if not check["passed"]}  # 150 of them
    report, _ = changed
    assert (report.against, report.promoted_by) == (first.release_id, None)
    assert "the replay against" in report.stage("register").report[0]
    daily(workspace, CHANGED)
    assert ran(daily(workspace, CHANGED)) == []
    stages = DailyStages(CHANGED, workspace, lambda line: None)
    unfavourable = stages.replayed.verdict().read_bytes()
    favourable = {"challenger": report.release_id, "champion": first.release_id, "promote": True}
    stages.replayed.verdict().write_text(json.dumps(favourable))
    said = run_stage(workspace, stages.releases.registration(stages.replayed)).report[0]
    assert "is the champion, promoted: verdict " in said
    # the champion that it was held against is remembered
    assert (stages.replayed.against(), Registry(workspace).release_id(CHAMPION)) == (
        first.release_id,
        report.release_id,
    )
    Registry(workspace).rollback()
    stages.replayed.verdict().write_bytes(unfavourable)


def test_promote_finds_the_newest_verdict_by_itself(job, changed, capsys):
    workspace, first = job
    registry = Registry(workspace)
    challenger, champion = registry.compared(2)
    assert champion == first.release_id
    words = ["promote", "--workspace", workspace.root, "--version", "2"]
    assert main(words) == 2  # the daily job has replayed it
    assert "expected promote true, got False; --force promotes anyway" in capsys.readouterr().err
    verdict = {"challenger": challenger, "champion": champion}
    later = {**verdict, "promote": True, "time": "2999-01-02T00:00:00+00:00"}
    later |= {"options": deciding_options(ReplayConfig(confidence=0.5))}
    workspace.write_bytes(json.dumps(later).encode(), "replay", "b", "verdict.json")
    assert main(words) == 2
    assert "replay.confidence: verdict 0.5, asked 0.95" in capsys.readouterr().err
    later |= {"options": deciding_options(ReplayConfig())}
    workspace.write_bytes(json.dumps(later).encode(), "replay", "b", "verdict.json")
    assert main(words) == 0
    assert "version 2 is the champion, promoted: verdict " in capsys.readouterr().out
    assert main(words) == 0
    assert "version 2 is the champion already; nothing was changed" in capsys.readouterr().out
    registry.rollback()


def test_a_replay_that_is_impossible_never_fails_the_job(job):
    workspace, first = job
    late = dataclasses.replace(SETTINGS, replay=dataclasses.replace(SETTINGS.replay, since="2099-01-01"))
    report = daily(workspace, late)
    assert ran(report)[-2:] == ["replay", "register"]
    assert "it stays a challenger: expected final pages from 2099-01-01" in report.stage("replay").report[0]
    assert report.release_id == first.release_id


def test_a_failure_that_says_nothing_of_the_pages_is_no_refusal(job, monkeypatch):
    """The next run tries again: nothing is remembered."""
    workspace, _ = job

    def out_of_order(*_: object) -> list[str]:
        raise ConnectionError("no tracking server")

    stage = DailyStages(SETTINGS, workspace, lambda line: None).replayed.stage()
    monkeypatch.setattr("pipelines.jobs.replay_stage.publish", out_of_order)
    with pytest.raises(ConnectionError, match="no tracking server"):
        stage.run(workspace.local_path("runs"))


def test_an_alignment_that_is_switched_off_is_left_out_of_the_release(job):
    workspace, first = job
    off = dataclasses.replace(SETTINGS, align=dataclasses.replace(SETTINGS.align, steps=0))
    report = daily(workspace, off)
    assert ran(report) == ["align", "evaluate", "release", "replay", "register"]
    assert "left out" in report.stage("align").report[0]
    supervised = Runs(workspace, "genrec").latest()
    released = load_release(workspace.local_path("releases", report.release_id)).manifest
    assert (released.runs["genrec"], newest_genrec(workspace)) == (supervised, supervised)
    assert ran(daily(workspace, off)) == []
    # on again: the aligned run is found, not made
    assert daily(workspace).release_id == first.release_id
    assert newest_genrec(workspace) != supervised


def test_where_the_log_is_too_short_to_align_on_the_supervised_model_is_taken(job, tmp_path):
    trained, _ = job
    shutil.copytree(trained.local_path(), tmp_path / "copy")
    workspace = Workspace(tmp_path / "copy")
    sequences = workspace.table("sequences")
    rows = sequences.read().to_pylist()
    at_once = [{**row, "page_times": [0] * len(row["page_times"]), "times": [0] * len(row["times"])} for row in rows]
    sequences.commit([sequences.write_part(pa.Table.from_pylist(at_once, schema=sequences.schema), shard=0)])
    stage = run_stage(workspace, ModelStages(SETTINGS, workspace, lambda line: None).align())
    assert re.search("left out, the supervised GenRec is .* three moments or more.* got 1", stage.report[0])
    assert newest_genrec(workspace) == Runs(workspace, "genrec").latest()


def test_a_lost_result_is_made_again(job):
    workspace, _ = job
    daily(workspace)
    workspace.local_path("tables", "transitions", "manifest.json").unlink()
    with open_store(SETTINGS.store, workspace) as store:
        redis.Redis.from_url(store.url).flushall()
    assert ran(daily(workspace)) == ["features", "store"]  # the same transitions: nothing after them changes


KILLED = """
import dataclasses, os, signal, sys
sys.path.insert(0, {folder!r})
from test_daily import SETTINGS
from features.workspace import Workspace
from pipelines.jobs.daily import run_daily

def die_at(line):
    if "train-genrec" in line:
        os.kill(os.getpid(), signal.SIGKILL)

run_daily(dataclasses.replace(SETTINGS, seed=1), Workspace({root!r}), die_at)
"""


@pytest.mark.slow
def test_killed_in_the_middle_the_next_run_goes_on(job):
    """The same of three small stages: `test_job_stages.py`; of these stages and Ctrl-C: `test_demo.py`."""
    workspace, _ = job
    script = KILLED.format(folder=str(Path(__file__).parent), root=workspace.root)
    killed = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    report = daily(workspace, dataclasses.replace(SETTINGS, seed=1))
    assert ran(report) == ["train-genrec", "train-ranker", "align", "evaluate", "release", "replay", "register"]
    assert load_release(Registry(workspace).resolve(CHALLENGER)).manifest.release_id == report.release_id


def test_two_jobs_in_one_workspace_are_refused(job):
    workspace, _ = job
    with exclusive(workspace.local_path("runs", "daily.lock")), pytest.raises(LockedError, match="is running a job"):
        daily(workspace)


def test_an_empty_workspace_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no events and no items table"):
        daily(Workspace(tmp_path))


def test_measuring_on_other_sequences_than_those_trained_on_is_said(job, tmp_path):
    trained, _ = job
    shutil.copytree(trained.local_path(), tmp_path / "copy")
    workspace = Workspace(tmp_path / "copy")
    lines: list[str] = []

    def measured() -> list[str]:
        lines.clear()
        answers, folder = answers_of(SETTINGS), tmp_path / "report"
        measure(workspace, SETTINGS.evaluate, answers, 0, folder=folder, progress=lines.append)
        return [line for line in lines if "trained on other sequences" in line]

    assert measured() == []
    sequences = workspace.table("sequences")
    sequences.commit([sequences.write_part(sequences.read().slice(1), shard=0)])
    assert len(measured()) == 1


def test_what_items_became_later_is_not_known_when_pages_are_measured(job, tmp_path):
    trained, _ = job
    shutil.copytree(trained.local_path(), tmp_path / "copy")
    workspace = Workspace(tmp_path / "copy")

    def measured(name):
        report = measure(workspace, SETTINGS.evaluate, answers_of(SETTINGS), 0, folder=tmp_path / name)
        return [(result.name, result.metrics) for result in report.results]

    before = measured("before")
    table = workspace.table(ITEM_FEATURES)
    rows = table.read()
    later = pc.add(rows["as_of"], pa.scalar(10**12, pa.duration("ms")))
    turned = rows["item_clicks_7d"].take(pa.array(range(rows.num_rows)[::-1]))
    place = rows.schema.get_field_index
    future = rows.set_column(place("as_of"), table.schema.field("as_of"), later.cast(table.schema.field("as_of").type))
    future = future.set_column(place("item_clicks_7d"), table.schema.field("item_clicks_7d"), turned)
    table.commit([table.write_part(pa.concat_tables([rows, future]), shard=0)])
    assert measured("after") == before


def test_a_release_with_8_bit_tables_says_what_they_change(job, changed):
    report, told = changed
    said = re.search(r"8-bit tables: (\d+) -> (\d+) kB; [\d.]+% of 50 golden pages", "\n".join(told))
    assert said is not None
    assert float(said[2]) < 0.8 * float(said[1])  # 8 bytes of scale beside rows of 4 to 16 numbers
    held = load_release(job[0].local_path("releases", report.release_id)).recommender
    kinds = {type(part).__name__ for part in held.ranker.model.modules()}
    assert "Int8Tables" in kinds
    assert "PlainTables" not in kinds
