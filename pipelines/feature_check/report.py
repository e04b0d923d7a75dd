"""What a day's check says: shares and differences by feature, alerts, lines for the terminal, JSON, metrics."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Self

from pipelines.feature_check.config import FeatureCheckConfig
from pipelines.feature_check.drift import chance, stability_index
from pipelines.feature_check.findings import Findings, Tally, span_quantile
from pipelines.feature_check.moments import AHEAD, BEHIND, CURRENT, LATE, MISSING

QUANTILES = (0.5, 0.95, 0.99)
_SHOWN = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureResult:
    """What was found of one feature; a share is None where there was nothing to take it of."""

    name: str
    rows: int
    """Values that were served."""
    mismatch_rate: float | None
    """Of the values where the service had all events, how many are not what batch finds."""
    explained_rate: float | None
    """Of the other values, how many are not: what lag costs."""
    largest_difference: float
    """Of a mismatched number, the difference; of ids, places of the list; of weights, the largest one."""
    default_share: float | None
    """Of the served values, how many are what an unknown user or item has."""
    batch_default_share: float | None
    """The same of what batch finds."""
    drift: float | None
    """Population stability index against the training split; None without either sample."""
    drift_by_chance: float | None
    """What it hardly ever exceeds where nothing has changed."""
    examples: tuple[str, ...]
    """Request ids of some pages with a mismatch."""

    @classmethod
    def of(cls, name: str, tally: Tally) -> Self:
        """Return shares of a tally."""
        drifting = bool(tally.served.sum() and tally.trained.sum())
        return cls(
            name=name,
            rows=tally.rows,
            mismatch_rate=_share(tally.mismatched, tally.compared),
            explained_rate=_share(tally.explained, tally.rows - tally.compared),
            largest_difference=tally.largest,
            default_share=_share(tally.defaults, tally.rows),
            batch_default_share=_share(tally.batch_defaults, tally.rows),
            drift=stability_index(tally.served, tally.trained) if drifting else None,
            drift_by_chance=chance(tally.served, tally.trained) if drifting else None,
            examples=tally.examples,
        )

    def line(self) -> str:
        """Return the feature as a line for a terminal."""
        named = f", e.g. {', '.join(self.examples)}" if self.examples else ""
        return (
            f"  {self.name}: {_percent(self.mismatch_rate)} mismatched (largest {self.largest_difference:.4g}), "
            f"{_percent(self.default_share)} defaults, batch {_percent(self.batch_default_share)}, "
            f"drift {'-' if self.drift is None else f'{self.drift:.3f}'}{named}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureCheckReport:
    """A day's check.

    Attributes:
        day: `YYYY-MM-DD`, UTC.
        counts: `pages.in`, `pages.repeated` and `pages.<kind>` (`moments`); `items.in` and `items.back_<midnights>`.
        features: Of users, then items, in the order of the table of features.
        staleness: Seconds by what they are and quantile, of pages that are behind; None without any.
        alerts: What to look at, a sentence each.
        notes: What was not checked, and why.
        path: Where the report lies.
    """

    day: str
    counts: Mapping[str, int]
    features: tuple[FeatureResult, ...]
    staleness: Mapping[str, Mapping[str, float | None]]
    alerts: tuple[str, ...]
    notes: tuple[str, ...]
    path: str

    @classmethod
    def of(
        cls,
        day: str,
        found: Findings,
        config: FeatureCheckConfig,
        order: list[str],
        notes: tuple[str, ...],
        path: str,
    ) -> Self:
        """Judge what was found; `order` names all features."""
        features = tuple(FeatureResult.of(name, found.features[name]) for name in order if name in found.features)
        staleness = {
            name: {f"p{round(100 * share)}": span_quantile(histogram, share) for share in QUANTILES}
            for name, histogram in sorted(found.spans.items())
        }
        return cls(
            day=day,
            counts=dict(sorted(found.counts.items())),
            features=features,
            staleness=staleness,
            alerts=(*_page_alerts(found, config), *_feature_alerts(features, config)),
            notes=notes,
            path=path,
        )

    @property
    def checked(self) -> int:
        """Pages that were held against batch."""
        return _checked(self.counts)

    def lines(self) -> list[str]:
        """Return the report as lines for a terminal: worst features first."""
        kinds = ", ".join(f"{self.counts.get(f'pages.{kind}', 0):,} {kind}" for kind in (CURRENT, BEHIND, LATE))
        others = ", ".join(f"{self.counts.get(f'pages.{kind}', 0):,} {kind}" for kind in (MISSING, AHEAD))
        lines = [f"features of {self.day}: {self.checked:,} pages checked: {kinds} of these, {others}"]
        for name, quantiles in self.staleness.items():
            known = [f"{at} {seconds:.3g}" for at, seconds in quantiles.items() if seconds is not None]
            lines += [f"{name}: {', '.join(known)}"] if known else []
        worst = sorted(self.features, key=lambda one: (-(one.mismatch_rate or 0), -(one.drift or 0), one.name))
        lines += [one.line() for one in worst[:_SHOWN]]
        wrong = sum(bool(one.mismatch_rate) for one in self.features)
        lines.append(f"{wrong} of {len(self.features)} features have a mismatch")
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"ALERT: {alert}" for alert in self.alerts] or ["no alert"]
        return [*lines, f"report: {self.path}"]

    def to_json(self) -> bytes:
        """Serialise."""
        return json.dumps(dataclasses.asdict(self), indent=2).encode()

    def metrics(self) -> dict[str, float]:
        """Return what MLflow is told."""
        pages = {
            f"pages.{kind}": self.counts.get(f"pages.{kind}", 0) for kind in (CURRENT, BEHIND, LATE, MISSING, AHEAD)
        }
        found: dict[str, float | None] = {"pages.checked": self.checked, "alerts": len(self.alerts), **pages}
        for one in self.features:
            found |= {
                f"mismatch.{one.name}": one.mismatch_rate,
                f"largest.{one.name}": one.largest_difference,
                f"defaults.{one.name}": one.default_share,
                f"drift.{one.name}": one.drift,
            }
        for name, quantiles in self.staleness.items():
            found |= {f"{name}.{at}": seconds for at, seconds in quantiles.items()}
        return {name: value for name, value in found.items() if value is not None}


def _page_alerts(found: Findings, config: FeatureCheckConfig) -> Iterator[str]:
    counts, checked = found.counts, _checked(found.counts)
    if not checked:
        yield f"unchecked: none of the {counts['pages.in']:,} pages could be held against batch"
    limits = {
        LATE: (config.late_alert, f"lacked events from more than {config.stale_after_s:g} s before: the stream lags"),
        MISSING: (config.late_alert, "had no state of a user who had events: it was never written, or expired"),
        AHEAD: (config.ahead_alert, "had events that batch does not know, or that come after the page"),
    }
    for kind, (limit, what) in limits.items():
        share = _share(counts[f"pages.{kind}"], checked)
        if share is not None and share > limit:
            yield f"{kind}: {_percent(share)} of the pages {what} (more than {_percent(limit)})"
    pages, shown = counts["pages.other_features"], counts["items.other_features"]
    if pages or shown:
        yield (
            f"other_features: {pages:,} pages and {shown:,} items were served with features of other definitions: "
            "restart the service and fill the store again"
        )
    items = sum(rows for name, rows in counts.items() if name.startswith("items.back_"))
    old = items - counts["items.back_0"] - counts["items.back_1"]
    share = _share(old, items)
    if share is not None and share > config.late_alert:
        yield (
            f"late_items: {_percent(share)} of the items shown had features from before the last midnight but one "
            f"(more than {_percent(config.late_alert)}): the back-fill did not run, or the service did not read it"
        )


def _feature_alerts(features: tuple[FeatureResult, ...], config: FeatureCheckConfig) -> Iterator[str]:
    for one in features:
        if one.mismatch_rate is not None and one.mismatch_rate > config.mismatch_alert:
            yield (
                f"mismatch: {one.name} differs from batch in {_percent(one.mismatch_rate)} of the values (more than "
                f"{_percent(config.mismatch_alert)}), by up to {one.largest_difference:.4g}; pages "
                f"{', '.join(one.examples)}"
            )
    for one in features:
        if (one.drift or 0) > max(config.drift_alert, one.drift_by_chance or 0):
            yield (
                f"drift: {one.name} is spread otherwise than in training, index {one.drift:.3f} (more than "
                f"{config.drift_alert:g}; {one.drift_by_chance:.3f} by chance)"
            )


def _checked(counts: Mapping[str, int]) -> int:
    return sum(counts.get(f"pages.{kind}", 0) for kind in (CURRENT, BEHIND, MISSING, AHEAD))


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.3g} %"
