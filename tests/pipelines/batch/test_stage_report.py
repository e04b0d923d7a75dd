"""What a stage prints at its end."""

from __future__ import annotations

from pipelines.report import StageReport


def test_lines_show_counts_rates_results_and_the_next_command():
    report = StageReport(
        name="validate",
        counts={"events.in": 3_000, "events.out": 2_998, "events.dropped.null_id": 2, "events.dropped.duplicate": 0},
        seconds=2.0,
        peak_rss_mb=512.4,
        outputs={"clean_events": "w/tables/clean_events"},
        notes=("events happened from 2024-03-01 to 2024-03-05",),
        next_command="pagewise features",
    )
    assert report.lines() == [
        "validate: 2.0 s, 1,500 rows/s, peak memory 512 MB",
        "  events: 3,000 in, 2,998 out, 2 dropped (2 null_id)",
        "  events happened from 2024-03-01 to 2024-03-05",
        "  wrote w/tables/clean_events",
        "  next: pagewise features",
    ]
