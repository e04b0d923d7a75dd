"""Which pages train, validate and test; the one place that decides it, for sequences and for every statistic.

Protocol `time`: a page belongs to the split in which it was shown. What happened to it at or after the end of its split
is not visible: an entry (an item of the page) whose strongest event came then is left out and counted `after_split`.
`pages` keep one event per item, so a weaker event from before the end goes with it: no later event is ever seen, its
only trace is that an item of a page that was open at the cut is missing.
Protocol `leave_one_out`: a user's last page is test, the one before validation; nothing is hidden, not even what became
of an earlier page after the later ones were shown.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any

import numpy as np
import pyarrow.dataset as ds

from features.schemas import SPLITS, TEST, TRAIN, VALIDATION
from features.workspace import Manifest, Table
from kernels.jagged import run_starts
from pipelines.batch.arrow import DAY_MS, Ints, Mask
from pipelines.batch.config import SplitConfig

NEVER = np.iinfo(np.int64).max
TRAIN_CODE, VALIDATION_CODE, TEST_CODE = (SPLITS.index(name) for name in (TRAIN, VALIDATION, TEST))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Splitter:
    """Assigns pages to splits.

    Attributes:
        validation_ms: Pages from here on are no training pages; None for leave-one-out.
        test_ms: Pages from here on are test pages; None for leave-one-out.
    """

    validation_ms: int | None = None
    test_ms: int | None = None

    def split_of_pages(self, user_P: Ints, time_P: Ints) -> Ints:
        """Return positions in `SPLITS` of pages that lie sorted by user and time."""
        if self.validation_ms is None or self.test_ms is None:
            return _leave_one_out(user_P)
        return (time_P >= self.validation_ms).astype(np.int64) + (time_P >= self.test_ms)

    def visible(self, split: Ints, time: Ints) -> Mask:
        """Return which entries, of pages in these splits, happened before the end of their split."""
        ends = np.array(
            [NEVER if end is None else end for end in (self.validation_ms, self.test_ms, None)], dtype=np.int64
        )
        return time < ends[split]


def make_splitter(config: SplitConfig, pages: Table) -> Splitter:
    """Find the cuts; the time of the last page is read by the driver from the last day of the committed pages.

    Example: with the last page at any time of 30 June and two days each, test starts on 29 June at 00:00 UTC and
    validation on 27 June.

    Raises:
        ValueError: Validation and test days leave no training page.
    """
    if config.protocol == "leave_one_out":
        return Splitter()
    first, last = _page_times(pages, 0), _page_times(pages, -1)
    test_ms = (int(last.max()) // DAY_MS + 1 - config.test_days) * DAY_MS
    validation_ms = test_ms - config.validation_days * DAY_MS
    if first.min() >= validation_ms:
        days = int(last.max()) // DAY_MS - int(first.min()) // DAY_MS + 1
        shorter = f"let batch.split.validation_days and batch.split.test_days be {days - 1} in sum at most, or "
        raise ValueError(
            f"{config.validation_days} validation and {config.test_days} test days leave no training pages of "
            f"{days} day{'s'[: days > 1]} of data, from {_date(int(first.min()))} to {_date(int(last.max()))}; "
            f"{shorter if days > 2 else ''}hold out every user's last pages: batch.split.protocol=leave_one_out"
        )
    return Splitter(validation_ms=validation_ms, test_ms=test_ms)


def split_notes(config: SplitConfig, splitter: Splitter) -> dict[str, Any]:
    """Return the notes of a table that was split."""
    return {"split": {"protocol": config.protocol, **dataclasses.asdict(splitter)}}


def thin_days(splitter: Splitter, pages: Manifest) -> list[str]:
    """Say which held-out days have less than a tenth of the pages that as many training days have.

    So it is when the newest event lies long after the others: test is counted back from it.
    """
    if splitter.validation_ms is None or splitter.test_ms is None:
        return []
    days = np.array([entry.path.split("/")[0].removeprefix("date=") for entry in pages.files], "datetime64[D]")
    day, rows = days.astype(np.int64), np.array([entry.rows for entry in pages.files], np.int64)
    cuts = [splitter.validation_ms // DAY_MS, splitter.test_ms // DAY_MS, int(day.max()) + 1]
    usual = int(np.median(rows[day < cuts[0]]))
    notes = []
    for name, first, end in zip((VALIDATION, TEST), cuts, cuts[1:], strict=False):
        held_out = int(rows[(day >= first) & (day < end)].sum())
        if held_out * 10 < usual * (end - first):
            notes.append(
                f"{name}: only {held_out:,} page{'s'[: held_out != 1]} in the {end - first} days from "
                f"{np.datetime64(first, 'D')}, where a day of training has {usual:,}: what is measured on them says "
                f"little; wait for more days, or set batch.split.{name}_days"
            )
    return notes


def _leave_one_out(user_P: Ints) -> Ints:
    starts = run_starts(user_P)
    sizes = np.diff([*starts, len(user_P)])
    from_end = np.repeat(starts + sizes, sizes) - 1 - np.arange(len(user_P))
    held_out = np.clip(TEST_CODE - from_end, TRAIN_CODE, TEST_CODE)
    return np.where(np.repeat(sizes, sizes) < len(SPLITS), TRAIN_CODE, held_out)


def _page_times(pages: Table, index: int) -> Ints:
    """Return the page times of the first (0) or last (-1) day: the parts lie in folders `date=`, in order."""
    entries = pages.manifest().files
    day = entries[index].path.split("/")[0]
    paths = [f"{pages.root}/{entry.path}" for entry in entries if entry.path.split("/")[0] == day]
    rows = ds.dataset(paths, format="parquet", filesystem=pages.workspace.filesystem).to_table(columns=["timestamp"])
    return np.asarray(rows.column("timestamp").cast("int64"), dtype=np.int64)


def _date(milliseconds: int) -> str:
    return str(dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC).date())
