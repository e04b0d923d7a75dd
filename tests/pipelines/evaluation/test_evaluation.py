from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from features.schemas import CLICK, EVENT_CODE, ITEM_STATISTICS, ITEMS, SEQUENCES, TRAIN, VALIDATION
from features.semantic_ids import Catalogue
from features.workspace import Workspace
from models.metrics import bootstrap_mean, paired_bootstrap
from models.recommend.interface import Candidates, RequestBatch
from models.recommend.requests import EvaluationCases
from models.recommend.retrievers import PopularRetriever
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.evaluate import evaluate, load_cases
from pipelines.evaluation.report import EvaluationReport
from pipelines.evaluation.sampling import draw, sample_pages
from pipelines.evaluation.slices import item_groups, slices_of

ITEM_IDS = ["a", "b", "c", "d", "e"]
A, B, C, D, E = range(5)
CATALOGUE = Catalogue(ITEM_IDS, np.arange(5).reshape(-1, 1), (5,))
POPULARITY = [9.0, 3.0, 2.0, 1.0, 0.0]  # head (20 % of 4 items, rounded up): a; tail: b c d; new: e
CONFIG = EvaluateConfig(split=VALIDATION, ks=(1, 3), resamples=50, sample_pages=2)

# user, items of the training page, items liked on the validation page
USERS = [("u", "", "ae"), ("v", "bcd", "b"), ("w", "abcde", "d"), ("x", "a", "a")]


def make_workspace(root: Path) -> Workspace:
    workspace = Workspace(root)
    rows = []
    for user, train, validation in USERS:
        for time, (split, items) in enumerate(((TRAIN, train), (VALIDATION, validation)), start=1):
            if items:
                rows.append(
                    {
                        "user_id": user,
                        "split": split,
                        "page_ids": [f"{user}{time}"],
                        "page_times": [time],
                        "page_lengths": [len(items)],
                        "items": list(items),
                        "events": [EVENT_CODE[CLICK]] * len(items),
                        "times": [time] * len(items),
                    }
                )
    counts = dict.fromkeys(("impressions", "clicks", "carts", "purchases", "dislikes", "users"), 0)
    statistics = [
        {"item_id": item, "popularity": popularity, "recent_popularity": popularity, **counts}
        | {"first_time": 1, "last_time": 1}
        for item, popularity in zip(ITEM_IDS, POPULARITY, strict=True)
        if popularity
    ]
    items = [{"item_id": item, "title": f"Title {item}"} for item in ITEM_IDS[:4]]
    for name, content, schema in (
        ("sequences", rows, SEQUENCES),
        ("item_statistics", statistics, ITEM_STATISTICS),
        ("clean_items", items, ITEMS),
    ):
        table = workspace.table(name)
        part = table.write_part(pa.Table.from_pylist(content, schema=schema), shard=0)
        table.commit([part], notes={"dataset": "tiny", "order_only": True})
    return workspace


class Oracle:
    """Ranks what `answers` says for a user, then nothing; invents a quarter of its unconstrained answers."""

    name = "oracle"

    def __init__(self, answers: dict[str, list[int]]) -> None:
        self.answers = answers

    def retrieve(self, requests: RequestBatch, k: int) -> Candidates:
        items = np.array([(self.answers[user] + [-1] * k)[:k] for user in requests.user_ids])
        scores = np.where(items >= 0, 1.0, -np.inf).astype(np.float32)
        return Candidates(items_BK=items, scores_BK=scores, source=self.name)

    def hallucination_rate(self, requests: RequestBatch) -> float:
        return 0.25


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="module")
def cases(workspace: Workspace) -> EvaluationCases:
    return load_cases(workspace, CATALOGUE, CONFIG, seed=0)


@pytest.fixture(scope="module")
def report(workspace: Workspace, cases: EvaluationCases) -> EvaluationReport:
    oracle = Oracle({"u": [E, A], "v": [C, B], "w": [D], "x": [B, C, D]})
    retrievers = [oracle, PopularRetriever.from_tables(workspace, CATALOGUE)]
    return evaluate(
        workspace, retrievers, cases, CATALOGUE, CONFIG, seed=7, folder=workspace.local_path("runs", "evaluate", "x")
    )


def test_means_are_those_of_the_pages(report: EvaluationReport):
    oracle, popular = report.result("oracle").metrics, report.result("popular").metrics
    # popular ranks a b c d e; pages like {a e}, {b}, {d}, {a}
    assert (popular["hr_at_1"].mean, popular["hr_at_3"].mean) == (2 / 4, 3 / 4)
    assert popular["recall_at_3"].mean == (1 / 2 + 1 + 0 + 1) / 4
    assert popular["mrr_at_3"].mean == (1 + 1 / 2 + 0 + 1) / 4
    assert (oracle["hr_at_1"].mean, oracle["recall_at_3"].mean) == (2 / 4, 3 / 4)
    assert report.result("oracle").hallucination_rate == 0.25
    assert report.result("popular").hallucination_rate is None


def test_intervals_and_paired_differences_are_the_bootstrap_of_the_page_values(report: EvaluationReport):
    popular, oracle = [1.0, 1.0, 0.0, 1.0], [1.0, 1.0, 1.0, 0.0]  # HR@3 of u v w x
    expected = bootstrap_mean(popular, list("uvwx"), 50, seed=7)
    assert report.result("popular").metrics["hr_at_3"] == expected
    difference = report.result("oracle").differences["popular"]["hr_at_3"]
    assert difference == paired_bootstrap(oracle, popular, list("uvwx"), 50, seed=7)
    assert difference.mean == 0.0
    assert report.result("popular").differences == {}


def test_coverage_and_novelty(report: EvaluationReport):
    assert report.result("popular").catalogue_metrics["coverage_at_3"] == 3 / 5
    assert report.result("oracle").catalogue_metrics["coverage_at_3"] == 5 / 5
    popular, oracle = (report.result(name).catalogue_metrics["novelty_at_1"] for name in ("popular", "oracle"))
    assert popular == pytest.approx(-np.log2(10 / 20))  # always a: (9 + 1) of 15 + 5
    assert oracle > popular


def test_slices_by_target_count_only_their_items(report: EvaluationReport):
    assert report.slice_cases == {"head": 2, "tail": 2, "new": 1, "history_0": 1, "history_1_4": 2, "history_5_9": 1}
    popular, oracle = report.result("popular").slices, report.result("oracle").slices
    assert (popular["head"]["recall_at_1"].mean, oracle["head"]["recall_at_3"].mean) == (1.0, 0.5)
    assert (popular["tail"]["hr_at_3"].mean, oracle["tail"]["hr_at_3"].mean) == (1 / 2, 1.0)
    assert (popular["new"]["hr_at_3"].mean, oracle["new"]["hr_at_1"].mean) == (0.0, 1.0)
    assert popular["history_5_9"]["hr_at_3"].mean == 0.0


def test_the_report_names_what_was_measured(report: EvaluationReport):
    lines = report.lines()
    assert lines[0] == (
        "evaluation of tiny, validation split, times are only an order: 4 pages of 4 users, ranking all 5 items, "
        "seen items not excluded"
    )
    heading = next(line for line in lines if "popular" in line)
    assert heading.split() == ["oracle", "popular"]
    assert any(line.startswith("  hr_at_3") and "0.7500 [" in line for line in lines)
    assert any(line.startswith("  oracle - popular: hr_at_3 +0.0000 [") for line in lines)
    with pytest.raises(ValueError, match="expected one of oracle, popular, got 'genrec'"):
        report.result("genrec")


def test_files_are_written_beside_each_other(report: EvaluationReport):
    names = {path.name for path in report.artifacts}
    assert names == {"report.json", "samples.txt", "metrics_at_k.png", "slices.png"}
    assert all(path.stat().st_size > 0 for path in report.artifacts)
    document = json.loads(next(path for path in report.artifacts if path.suffix == ".json").read_text())
    assert (document["split"], document["exclude_seen"], document["cases"]) == ("validation", False, 4)
    oracle = next(result for result in document["results"] if result["name"] == "oracle")
    assert oracle["metrics"]["recall_at_3"]["mean"] == 3 / 4
    plot = next(path for path in report.artifacts if path.name == "slices.png")
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_sample_pages_show_titles_and_mark_hits(workspace: Workspace, cases: EvaluationCases):
    ranked = {"oracle": np.array([[E, A, -1], [C, B, -1], [D, -1, -1], [B, C, D]])}
    of_u, of_v = sample_pages(workspace, ranked, cases, CATALOGUE, np.array([0, 1]))
    assert (of_u.history, of_u.relevant) == ((), ("Title a", "e"))  # e has no title
    assert of_u.recommended == {"oracle": ("* e", "* Title a")}
    assert of_v.lines() == [
        "page v2",
        "  had    Title b",
        "  had    Title c",
        "  had    Title d",
        "  liked  Title b",
        "  oracle  1. Title c",
        "  oracle  2. * Title b",
    ]


def test_tracked_metrics_have_names_that_mlflow_accepts(report: EvaluationReport):
    tracked = report.tracked_metrics()
    assert tracked["popular/hr_at_3"] == 3 / 4
    assert tracked["oracle/hallucination_rate"] == 0.25
    assert "popular/hallucination_rate" not in tracked


def test_seen_items_can_be_excluded_and_are_then_no_targets(workspace: Workspace):
    config = dataclasses.replace(CONFIG, exclude_seen=True)
    cases = load_cases(workspace, CATALOGUE, config, seed=0)
    assert cases.requests.user_ids == ["u"]
    assert cases.left_out["pages.seen"] == 3


def test_sampled_cases_repeat_with_their_seed(workspace: Workspace):
    config = dataclasses.replace(CONFIG, max_cases=2)
    drawn = [load_cases(workspace, CATALOGUE, config, seed).page_ids for seed in range(8)]
    assert all(len(pages) == 2 for pages in drawn)
    assert drawn == [load_cases(workspace, CATALOGUE, config, seed).page_ids for seed in range(8)]
    assert len({tuple(pages) for pages in drawn}) > 1
    assert draw(10, 3, seed=1, stream=0).tolist() != draw(10, 3, seed=1, stream=1).tolist()


def test_item_groups_by_hand():
    groups = item_groups(np.array([5.0, 5.0, 0.0, 7.0, 1.0, 1.0]), head_share=0.4)  # 2 of 5: the 7 and the first 5
    assert {name: np.flatnonzero(mask).tolist() for name, mask in groups.items()} == {
        "head": [0, 3],
        "tail": [1, 4, 5],
        "new": [2],
    }


def test_slices_of_items_partition_the_relevant_items(cases: EvaluationCases):
    parts = slices_of(cases, np.array(POPULARITY), 0.2)
    of_items = [part for part in parts if not part.name.startswith("history")]
    assert sorted(np.concatenate([part.relevant_items for part in of_items])) == sorted(cases.relevant_items)
    of_histories = [part for part in parts if part.name.startswith("history")]
    assert sorted(np.concatenate([part.rows for part in of_histories])) == list(range(len(cases)))


def test_nothing_recommended_has_no_novelty(workspace: Workspace, cases: EvaluationCases, tmp_path: Path):
    silent = Oracle({user: [] for user, _, _ in USERS})
    report = evaluate(workspace, [silent], cases, CATALOGUE, CONFIG, seed=0, folder=tmp_path)
    measured = report.results[0].catalogue_metrics
    assert measured == {"coverage_at_1": 0.0, "coverage_at_3": 0.0}
    assert report.results[0].metrics["hr_at_3"].mean == 0.0


def test_refuses_retrievers_of_one_name(workspace: Workspace, cases: EvaluationCases, tmp_path: Path):
    popular = PopularRetriever(np.zeros(5))
    with pytest.raises(ValueError, match=r"distinct names, got \['popular', 'popular'\]"):
        evaluate(workspace, [popular, popular], cases, CATALOGUE, CONFIG, seed=0, folder=tmp_path)


def test_config_collects_all_mistakes():
    with pytest.raises(ValueError, match=r"resamples: .* got 0; split: .* got 'dev'; ks: .* got \(5, 1\)"):
        EvaluateConfig(split="dev", ks=(5, 1), resamples=0)
    with pytest.raises(ValueError, match=r"max_cases: .* got 0; head_share: .* got 1; sample_pages: .* got -1"):
        EvaluateConfig(max_cases=0, head_share=1, sample_pages=-1)
