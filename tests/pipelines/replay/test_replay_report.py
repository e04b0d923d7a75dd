from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from report_cases import EVIL, random_rounds, report_of

from pipelines.replay.config import ReplayConfig
from pipelines.replay.plots import intervals_plot
from pipelines.replay.report import ReplayReport, estimate_rows
from pipelines.replay.report_html import binned, report_html
from pipelines.replay.weight_sums import EDGES

sys.path.insert(0, str(Path(__file__).parents[2] / "serving"))

from chromium import Tab, chromium, find_chromium

PROGRAM = find_chromium()


@pytest.fixture(scope="module")
def report() -> ReplayReport:
    return report_of(random_rounds(4000, 3), ReplayConfig(), notes=("something <b>else</b>",))


@pytest.fixture(scope="module")
def document(report: ReplayReport) -> str:
    return report_html(report)


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Tab]:
    if PROGRAM is None:
        pytest.skip("no Chromium here: install Debian's package `chromium`")
    with chromium(PROGRAM, tmp_path / "profile") as opened:
        yield opened


def test_lines_begin_with_the_verdict(report):
    lines = report.lines()
    assert lines[0] == "verdict: ship"
    assert any(line.startswith("  iips_dr *") for line in lines)
    assert any(line.startswith("  passed  users: ") for line in lines)
    assert lines[-1].endswith("report: /ws/replay/x/report.html")


def test_json_is_strict_and_whole(report):
    document = json.loads(report.to_json(), parse_constant=pytest.fail)
    assert document["question"]["challenger"]["release"] == "new"
    assert {one["name"] for one in document["estimates"]} >= {"ips", "snips", "dm", "dr", "rips", "cascade_dr", "mips"}
    verdict = json.loads(report.verdict_json(), parse_constant=pytest.fail)
    assert (verdict["challenger"], verdict["champion"], verdict["promote"]) == ("new", "old", True)
    assert verdict == document["verdict"]


def test_intervals_are_shown_with_the_bias_that_shrinking_may_have_cost(report):
    plain = report.primary
    unit = {
        f"{kind}{end}": value
        for kind in ("", "bootstrap_", "always_valid_")
        for end, value in (("low", 1.0), ("high", 2.0))
    }
    clipped = dataclasses.replace(plain, name="clipped_dr", promise="bounded", bias_bound=0.25, **unit)
    unknown = dataclasses.replace(plain, name="dm", promise="none", bias_bound=None, **unit)
    header, *rows = estimate_rows([plain, clipped, unknown], dataclasses.replace(report.verdict, silent=("dm",)))
    assert [row[0] for row in rows] == [f"{plain.name} *", "clipped_dr", "dm ~"]
    mine, shrunk, model = (dict(zip(header, row, strict=True)) for row in rows)
    assert [shrunk[name] for name in ("interval", "bootstrap", "always valid")] == ["[+0.75, +2.25]"] * 3
    assert (shrunk["bias up to"], model["bias up to"], mine["bias up to"]) == ("0.25", "not known", "-")
    assert model["interval"] == "[+1, +2]"
    assert clipped.widened().difference == clipped.difference
    assert plain.widened() == plain


def test_metrics_are_finite_and_name_every_estimator(report):
    metrics = report.metrics()
    assert np.isfinite(list(metrics.values())).all()
    assert metrics["promote"] == 1.0
    assert metrics["difference_iips_dr"] == report.primary.difference


def test_the_document_holds_everything_and_asks_for_nothing(document, report):
    assert "<script" not in document
    assert not re.search(r"(?:src|href)=\"(?!data:)", document)
    assert EVIL not in document
    assert "&lt;img src=x onerror=alert(1)&gt;&amp;" in document
    assert "something &lt;b&gt;else&lt;/b&gt;" in document
    for one in report.estimates:
        assert one.assumption.split("'")[0] in document


def test_the_same_report_is_the_same_document(document, report):
    assert report_html(report) == document


@pytest.mark.integration
def test_a_browser_shows_every_plot_and_asks_nobody(tab, document, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(document)
    tab.call("Network.enable")
    tab.open(file.as_uri())
    plots = tab.evaluate("[...document.images].map((one) => [one.naturalWidth, one.complete, one.alt])")
    assert len(plots) == document.count("<img ") >= 6
    assert all(width > 0 and done and alt for width, done, alt in plots)
    assert (
        tab.evaluate("performance.getEntriesByType('resource').filter((one) => !one.name.startsWith('data:')).length")
        == 0
    )
    assert tab.text(".verdict strong") == "Ship B"
    assert tab.texts("td.bad") == []
    assert tab.complaints == []
    colours = {}
    for scheme in ("light", "dark"):
        tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        colours[scheme] = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert colours == {"light": "rgb(255, 255, 255)", "dark": "rgb(23, 23, 26)"}
    tab.call("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1, mobile=True)
    assert tab.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


@pytest.mark.parametrize("slots", [1, 2])
def test_a_refusal_says_what_is_missing(slots):
    report = report_of(random_rounds(100, slots), ReplayConfig())
    assert report.verdict.verdict == "not_enough_evidence"
    document = report_html(report)
    assert "Not enough evidence" in document
    assert "Missing: " in document
    assert ">FAILED<" in document


def test_equal_policies_differ_by_nothing_at_all():
    report = report_of(random_rounds(3000, 2, better=1.0), ReplayConfig())
    assert {one.difference for one in report.estimates if one.name != "rejection"} == {0.0}
    assert "not_enough_evidence" in report_html(report) or report.title == "Not enough evidence"


def test_weights_fall_into_the_bins_that_are_drawn():
    histogram = np.zeros(len(EDGES) + 1, dtype=np.int64)
    for weight in (0.0, 1.0, 2.0, 5e5):
        histogram[np.searchsorted(EDGES, weight, side="right")] += 1

    class Weights:
        pass

    weights = Weights()
    weights.histogram = tuple(histogram.tolist())
    assert binned(weights).tolist() == [1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1]


def test_an_interval_that_is_none_is_left_out_of_the_plot():
    assert intervals_plot([("a", 1.0, -np.inf, np.inf), ("b", 0.0, -1.0, 1.0)], 0.0, "title").startswith(b"<?xml")
