"""Prometheus, its alerts, Grafana and the runbooks speak of metrics that the code has, and of each other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry

from pipelines.streaming.metrics import StreamMetrics
from serving.metrics import REFUSED_RELEASES, GateMetrics, ServiceMetrics

ROOT = Path(__file__).resolve().parents[2]
SUFFIXES = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}
ADDED = {"le", "job", "instance"}
"""Labels that Prometheus and histograms add."""


def series(registry: CollectorRegistry) -> Iterator[tuple[str, set[str]]]:
    """Every series that a registry exports, with its labels."""
    for collector in registry._collector_to_names:
        (metric,) = collector.describe()
        for suffix in SUFFIXES[metric.type]:
            yield metric.name + suffix, {*collector._labelnames} | ADDED


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    own = (each for metrics in (ServiceMetrics(), GateMetrics(), StreamMetrics()) for each in series(metrics.registry))
    return {**dict(own), f"{REFUSED_RELEASES}_total": ADDED}


def alerts() -> list[dict]:
    groups = yaml.safe_load((ROOT / "infra/prometheus/alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict]:
    dashboard = json.loads((ROOT / "infra/grafana/dashboards/pagewise.json").read_text())
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def expressions() -> dict[str, str]:
    asked = {rule["alert"]: rule["expr"] for rule in alerts()}
    return asked | {f"{panel['title']}: {one['refId']}": one["expr"] for panel in panels() for one in panel["targets"]}


@pytest.mark.parametrize(("name", "expression"), expressions().items(), ids=list(expressions()))
def test_every_query_names_metrics_and_labels_that_exist(exported, name, expression):
    found = re.findall(r"(pagewise_\w+)(?:\{([^}]*)\})?", expression)
    assert found or expression.startswith("up{")
    for metric, selector in found:
        assert metric in exported, f"{name}: nothing exports {metric}"
        assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector)) <= exported[metric], f"{name}: {selector}"
    grouped = {label.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(",")}
    assert grouped <= set().union(*(exported[metric] for metric, _ in found), ADDED), f"{name}: {grouped}"
    assert expression.count("(") == expression.count(")")


def test_every_metric_is_on_the_dashboard(exported):
    text = json.dumps(panels())
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exported if not name.endswith("_total")}
    families |= {name for name in exported if name.endswith("_total")}
    missing = sorted(family for family in families if family not in text)
    assert not missing, f"give them a panel in infra/grafana/dashboards/pagewise.json: {missing}"


def test_panels_do_not_lie_on_each_other():
    taken = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in panels()
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24


def test_every_alert_has_a_runbook_and_every_runbook_an_alert():
    titles = re.findall(r"^## (.+)$", (ROOT / "docs/runbooks.md").read_text(), flags=re.M)
    assert [title for title in titles if " " not in title] == [rule["alert"] for rule in alerts()]
    for rule in alerts():
        assert rule["annotations"]["runbook"] == f"docs/runbooks.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in {"page", "ticket"}


def test_links_within_the_runbooks_lead_somewhere():
    text = (ROOT / "docs/runbooks.md").read_text()
    anchors = {title.lower() for title in re.findall(r"^## (\w+)$", text, flags=re.M)}
    assert set(re.findall(r"\]\(#(\w+)\)", text)) <= anchors
    for path in re.findall(r"\]\(([^#)]+)\)", text):
        assert (ROOT / "docs" / path).exists(), path


def test_alerts_ask_the_jobs_that_prometheus_has():
    jobs = yaml.safe_load((ROOT / "infra/prometheus/prometheus.yaml").read_text())["scrape_configs"]
    asked = {job for rule in alerts() for job in re.findall(r'job="([^"]+)"', rule["expr"])}
    assert asked == {job["job_name"] for job in jobs}
