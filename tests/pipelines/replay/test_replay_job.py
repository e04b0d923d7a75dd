"""The whole job on logs of a known policy: files, shards, faults, the command."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from log_world import CLICKS, logged_pages, write_logs, write_policy
from report_cases import random_rounds

from features.schemas import PAGES
from features.workspace import Workspace
from pagewise.main import main
from pipelines.replay.calibration import Calibration
from pipelines.replay.config import ReplayConfig
from pipelines.replay.diagnostics import Diagnostics
from pipelines.replay.estimates import estimates
from pipelines.replay.job import replay
from pipelines.replay.judging import Judge
from pipelines.replay.preparing import prepare
from pipelines.replay.publishing import publish
from pipelines.replay.report import ReplayReport
from pipelines.replay.skew import Skew
from pipelines.replay.tally import Tally
from pipelines.replay.transforms import JudgedPages, ReplaySums
from pipelines.replay.usable import usable
from pipelines.replay.verdicts import newest_verdict

pytestmark = pytest.mark.integration

PAGES_LOGGED, USERS = 1500, 400


@pytest.fixture(scope="module")
def pages() -> list[dict[str, Any]]:
    return logged_pages(PAGES_LOGGED, USERS)


@pytest.fixture(scope="module")
def better(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_policy(tmp_path_factory.mktemp("policies") / "better.parquet", CLICKS**2)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "ws")


def options(logs: str, challenger: str, **others: Any) -> ReplayConfig:
    asked = {"champion": "logged", "reward_model": "table", "attribution_hours": 0.0, "draws": 16, "resamples": 100}
    return ReplayConfig(**{**asked, "logs": logs, "challenger": challenger, **others})


def run(
    workspace: Workspace, folder: Path, pages: list[dict[str, Any]], challenger: str, files: int = 1
) -> ReplayReport:
    return replay(workspace, options(write_logs(folder, pages, files), challenger))


def test_a_better_policy_is_found_and_the_truth_is_covered(workspace, tmp_path, pages, better):
    report = run(workspace, tmp_path / "logs", pages, better)
    assert report.verdict.verdict == "ship"
    assert report.primary.low > 0
    assert (report.question.pages, report.question.counted, report.question.users) == (
        PAGES_LOGGED,
        PAGES_LOGGED,
        USERS,
    )
    assert report.question.logged_by == ("epsilon=0.4,temperature=1",)
    assert f"probabilities of {better} are estimates" in report.notes
    assert any(f"no gate knows which pages {better} was made of" in note for note in report.notes)
    assert (report.verdict.compared.champion, report.question.champion.title) == (None, "logged")
    logged = sum(event == "click" for page in pages for event in page["events"]) / PAGES_LOGGED
    assert {round(one.value_a, 9) for one in report.estimates if one.name in ("ips", "iips", "rips")} == {
        round(logged, 9)
    }


def test_files_and_batches_change_nothing(workspace, tmp_path, pages, better, monkeypatch):
    config = options(write_logs(tmp_path / "one", pages), better)
    table = pa.Table.from_pylist(pages, pa.schema([PAGES.field(name) for name in pages[0]]))
    whole = pa.table({name: table[name] if name in table.column_names else pa.nulls(len(pages), PAGES.field(name).type)
                      for name in PAGES.names}, PAGES)  # fmt: skip
    job = prepare(workspace, config, [whole])
    rounds, bad = usable(Judge(job).rounds(whole), config)
    assert not bad
    expected = estimates(Tally.empty(config, 3).add(rounds), config)
    diagnostics = Diagnostics.empty(config, 3)
    diagnostics.add(rounds)
    monkeypatch.setattr("pipelines.replay.logs.ROWS", 64)
    many = replay(workspace, dataclasses.replace(config, logs=write_logs(tmp_path / "many", pages, 7)))
    assert [one.name for one in many.estimates] == [one.name for one in expected]
    for several, single in zip(many.estimates, expected, strict=True):
        for name in ("value_a", "value_b", "difference", "se", "low", "high", "bootstrap_low", "always_valid_high"):
            assert getattr(several, name) == pytest.approx(getattr(single, name), rel=1e-9, abs=1e-12), several.name
    for several, single in zip(many.diagnostics.weights, diagnostics.report().weights, strict=True):
        assert several.effective_users == pytest.approx(single.effective_users, rel=1e-9)
        assert several.histogram == single.histogram


def test_a_policy_against_itself_differs_by_nothing(workspace, tmp_path, pages, better):
    config = options(write_logs(tmp_path / "logs", pages), better, champion=better)
    report = replay(workspace, config)
    assert {one.difference for one in report.estimates} == {0.0}
    assert report.verdict.verdict == "not_enough_evidence"


@pytest.mark.parametrize(
    ("fault", "gate"),
    [
        (lambda page: {**page, "propensities": [0.0, 0.5, 0.5]}, "zero_propensity"),
        (lambda page: {**page, "propensities": [0.5, 1.5, 0.5]}, "propensity_above_1"),
        (lambda page: {**page, "propensities": None}, "missing_propensity"),
        (lambda page: {**page, "request_id": "page 0"}, "duplicate"),
    ],
)
def test_one_page_that_cannot_be_forbids_a_verdict(workspace, tmp_path, pages, better, fault, gate):
    report = run(workspace, tmp_path / "logs", [*pages[:600], fault(pages[600])], better)
    assert report.diagnostics.bad == {gate: 1}
    assert gate in [check.name for check in report.verdict.checks if not check.passed]
    assert report.verdict.verdict == "not_enough_evidence"
    assert report.question.counted == 600


def test_another_table_in_the_same_file_is_another_policy(workspace, tmp_path, pages):
    asked = options(write_logs(tmp_path / "logs", pages[:600]), write_policy(tmp_path / "b.parquet", CLICKS**2))
    first = replay(workspace, asked)
    write_policy(tmp_path / "b.parquet", CLICKS[::-1] ** 2)
    second = replay(workspace, asked)
    assert first.verdict.compared.inputs != second.verdict.compared.inputs
    assert second.verdict.difference < 0 < first.verdict.difference


def test_the_second_look_is_by_the_always_valid_interval(workspace, tmp_path, pages, better):
    asked = options(write_logs(tmp_path / "logs", pages), better)
    first = replay(workspace, asked)
    publish(first, workspace, None)
    again, other = replay(workspace, asked), replay(workspace, dataclasses.replace(asked, until="1970-01-01"))
    assert (again.verdict.compared.look, again.verdict.low) == (1, first.verdict.low)
    assert (other.verdict.compared.look, other.verdict.low) == (2, other.primary.always_valid_low)
    assert other.detectable > 1.2 * first.detectable
    wrong = [page | {"request_id": f"{page['request_id']} again", "events": ["glance"] * 3} for page in pages]
    with pytest.raises(ValueError, match="glance"):
        replay(workspace, options(write_logs(tmp_path / "wrong", wrong), better))
    newest = json.loads(newest_verdict(workspace, better, None).read_text())
    assert (newest["promote"], "glance" in newest["refused"]) == (False, True)


def test_propensities_that_nobody_logged_are_estimated_and_marked(workspace, tmp_path, pages, better):
    bare = ("propensities", "candidates", "candidate_scores", "epsilon", "temperature")
    log = [{name: value for name, value in page.items() if name not in bare} for page in pages[:600]]
    report = run(workspace, tmp_path / "logs", log, better)
    assert report.diagnostics.estimated
    assert any("the log has no propensities; they were estimated" in note for note in report.notes)


def test_without_a_reward_model_there_is_none_to_stand_alone(workspace, tmp_path, pages, better):
    config = options(write_logs(tmp_path / "logs", pages[:300]), better, reward_model="none")
    names = [one.name for one in replay(workspace, config).estimates]
    assert "dm" not in names
    assert "dr" in names


def test_without_the_logs_scores_only_the_chances_given_the_slots_before_decide(workspace, tmp_path, pages, better):
    """How likely the log fills a slot whatever stands before is not known then; on pages of one item it is."""
    blind = [{name: value for name, value in page.items() if name != "candidate_scores"} for page in pages]
    logs = write_logs(tmp_path / "blind", blind)
    report = replay(workspace, options(logs, better))
    assert report.primary.name == "cascade_dr"
    assert report.diagnostics.slices.total == pytest.approx(report.primary.difference), "slices are parts of it"
    for one in report.estimates:
        of_positions = one.name.startswith(("iips", "sniips")) or one.name in ("mips", "snmips")
        assert not of_positions or (one.promise, "does not follow from this log" in one.assumption) == ("none", True)
    asked = replay(workspace, options(logs, better, estimator="iips_dr"))
    assert "promise" in [check.name for check in asked.verdict.checks if not check.passed]
    assert replay(workspace, options(write_logs(tmp_path / "whole", pages), better)).primary.name == "iips_dr"
    alone = [
        page | {name: page[name][:1] for name in ("items", "propensities", "events", "event_times")} for page in blind
    ]
    assert replay(workspace, options(write_logs(tmp_path / "alone", alone), better)).primary.name == "ips"


def test_the_pseudo_inverse_of_pages_with_too_many_pairs_is_refused(workspace, tmp_path):
    """Three slots of 134 candidates are 402 pairs."""
    logs = write_logs(tmp_path / "logs", logged_pages(12, 4, items=140, candidates=134))
    with pytest.raises(ValueError, match="pi expects pages of at most 400 pairs of position and candidate"):
        replay(workspace, options(logs, "uniform", estimator="pi", reward_model="none"))


def test_one_user_with_all_the_weight_forbids_a_verdict(workspace, tmp_path, pages, better):
    log = [{**page, "user_id": "user 0"} if row >= 300 else page for row, page in enumerate(pages)]
    report = run(workspace, tmp_path / "logs", log, better)
    assert report.verdict.verdict == "not_enough_evidence"
    failed = [check.name for check in report.verdict.checks if not check.passed]
    assert "weight_share_challenger" in failed


def test_the_command_says_the_verdict_and_leaves_its_files(tmp_path, pages, better, capsys):
    folder, logs = tmp_path / "ws", write_logs(tmp_path / "logs", pages)
    words = ["replay", "--workspace", str(folder), "--champion", "logged", "--challenger", better, "--logs", logs]
    asked = [*words, "replay.reward_model=table", "replay.attribution_hours=0", "replay.draws=16"]
    assert main(asked) == 0
    said = capsys.readouterr().out
    assert f'  replay: champion="logged" challenger="{better}" logs="{logs}" ' in said
    assert "verdict: ship" in said
    assert said.index("verdict: ship") < said.index("  estimator ") < said.index("gates:")
    (left,) = (folder / "replay").iterdir()
    assert {path.name for path in left.iterdir()} == {"report.html", "report.json", "verdict.json"}
    verdict = json.loads((left / "verdict.json").read_text())
    assert (verdict["promote"], verdict["champion"]) == (True, None)
    assert (verdict["look"], verdict["options"]["confidence"]) == (1, 0.95)
    assert main([*asked, "replay.reward.purchase=5"]) == 0
    said = capsys.readouterr().out
    assert "1 x click + 5 x purchase" in said
    assert "This is look 2 at this pair, by other pages or options: the always valid interval decides" in said
    assert main(asked) == 0
    assert len(list((folder / "replay").iterdir())) == 2
    assert main([*words, "--live"]) == 2
    assert "--live: the arms are who they were" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--challenger", "nobody"], "policy 'nobody': expected champion, challenger, popular"),
        (["--challenger", "uniform", "--logs", "nowhere"], "logs nowhere: expected Parquet files of pages"),
        (["--challenger", "uniform"], "table 'pages' does not exist"),
        (["--challenger", "table:nowhere"], "expected a Parquet file at nowhere, there is none"),
        (["--live"], "table 'pages' does not exist"),
    ],
)
def test_mistakes_are_told(tmp_path, capsys, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ws").mkdir()
    policies = [] if "--live" in words else ["--champion", "logged"]
    assert main(["replay", "--workspace", "ws", *policies, *words]) == 2
    assert message in capsys.readouterr().err


def test_the_weights_of_the_log_itself_are_1(workspace, tmp_path, pages):
    report = run(workspace, tmp_path / "logs", pages[:300], "uniform")
    assert set(np.round(report.diagnostics.weight("champion", "page").mean_P, 12)) == {1.0}


def test_what_is_kept_does_not_grow_with_the_pages():
    config, rounds = ReplayConfig(resamples=100), random_rounds(500, 3)
    judged = JudgedPages(
        rounds=rounds, skew=Skew(checked=1), calibration=Calibration(), repeated=2, logged_by=Counter(policy=500)
    )
    sums, sizes = ReplaySums.empty(config, 3), []
    for _ in range(4):
        sums.add(judged, config)
        sizes.append(len(sums.to_bytes()))
    assert sizes[0] == pytest.approx(sizes[-1], rel=0.001)
    read = ReplaySums.from_bytes(sums.to_bytes(), config, 3)
    assert read.diagnostics.report() == sums.diagnostics.report()
    assert estimates(read.tally, config) == estimates(sums.tally, config)
    assert (read.logged_by, read.diagnostics.report().bad) == ({"policy": 2000}, {"duplicate": 8})
