"""Held-out days with hardly a page: one click long after a history takes the test split with it, and is told."""

from __future__ import annotations

from features.workspace import FileEntry, Manifest
from pipelines.batch.arrow import DAY_MS
from pipelines.batch.split import Splitter, thin_days

SPLITTER = Splitter(validation_ms=6 * DAY_MS, test_ms=8 * DAY_MS)


def pages(*rows: tuple[int, int]) -> Manifest:
    """Pages of days of January 1970."""
    files = tuple(
        FileEntry(path=f"date=1970-01-{day + 1:02}/part-00000.parquet", rows=count, digest="") for day, count in rows
    )
    return Manifest(name="pages", schema_hash="", files=files)


def test_days_like_the_others_are_not_mentioned():
    assert thin_days(SPLITTER, pages(*((day, 100) for day in range(10)))) == []
    assert thin_days(SPLITTER, pages(*((day, 100) for day in range(6)), (7, 20), (9, 20))) == []


def test_a_click_of_today_behind_an_old_history():
    validation, test = thin_days(SPLITTER, pages(*((day, 700) for day in range(5)), (9, 1)))
    assert validation.startswith(
        "validation: only 0 pages in the 2 days from 1970-01-07, where a day of training has 700"
    )
    assert test.startswith("test: only 1 page in the 2 days from 1970-01-09, where a day of training has 700")
    assert test.endswith("wait for more days, or set batch.split.test_days")


def test_last_pages_of_users_are_never_thin():
    assert thin_days(Splitter(), pages((0, 5), (30, 1))) == []
