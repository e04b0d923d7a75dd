from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.schemas import PAGES
from features.workspace import MissingTableError, Workspace
from pipelines.batch.arrow import DAY_MS
from pipelines.replay.logs import LoggedPages, counted_pages, repeated_pages, survey

HOUR = 3_600_000


def page(name: str, time: int, *items: str, answered: int | None = None) -> dict:
    return {
        "request_id": name,
        "user_id": "ann",
        "timestamp": time,
        "items": list(items or ("a",)),
        "events": ["click" for _ in items or ("a",)],
        "event_times": [answered or time for _ in items or ("a",)],
    }


def write(path: Path, *pages: dict) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = [name for name in PAGES.names if name in pages[0]] if pages else PAGES.names
    schema = pa.schema([PAGES.field(name) for name in columns])
    pq.write_table(pa.Table.from_pylist(list(pages), schema), path, row_group_size=2)
    return str(path)


def looked(workspace: Workspace, logs: Path, **options: object) -> LoggedPages:
    return survey(workspace, str(logs), **{"since": None, "until": None, "hours": 24.0, **options})


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "ws")


def test_a_folder_is_read_below_and_pages_of_the_last_hours_are_not_final(workspace, tmp_path):
    first = write(tmp_path / "logs/date=1970-01-01/x.parquet", page("1", HOUR, "a", "b", "c"), page("2", 2 * HOUR))
    second = write(
        tmp_path / "logs/date=1970-01-02/x.parquet", page("3", 10 * HOUR), page("4", 20 * HOUR, answered=27 * HOUR)
    )
    logs = looked(workspace, tmp_path / "logs")
    assert (logs.files, logs.rows, logs.slots) == ((first, second), 4, 3)
    assert (logs.since_ms, logs.before_ms) == (HOUR, 3 * HOUR + 1)
    assert logs.window() == "1970-01-01 01:00 to 1970-01-01 03:00"
    parts = [part for path in logs.files for part, _ in counted_pages(logs, path, np.zeros(0, np.int64))]
    assert pa.concat_tables(parts).column("request_id").to_pylist() == ["1", "2"]
    assert parts[0].schema.equals(PAGES)


def test_one_event_by_a_wrong_clock_makes_no_page_final(workspace, tmp_path):
    late = page("2", 30 * HOUR, answered=100_000 * HOUR)
    write(tmp_path / "logs/x.parquet", page("1", 5 * HOUR, answered=6 * HOUR), late)
    assert looked(workspace, tmp_path / "logs").before_ms == 6 * HOUR + 1


def test_days_limit_the_window(workspace, tmp_path):
    logs = tmp_path / "x.parquet"
    write(logs, *(page(str(day), day * DAY_MS) for day in range(5)))
    found = looked(workspace, logs, since="1970-01-02", until="1970-01-03")
    assert (found.since_ms, found.before_ms) == (DAY_MS, 3 * DAY_MS)
    assert looked(workspace, logs, first_ms=2 * DAY_MS).since_ms == 2 * DAY_MS


@pytest.mark.parametrize("parts", [1, 3])
def test_repeated_pages_are_found_wherever_they_lie(workspace, tmp_path, parts):
    pages = [page(str(number), number) for number in range(6)]
    first = write(tmp_path / "logs/a.parquet", *pages[:4], pages[1])
    second = write(tmp_path / "logs/b.parquet", pages[4], pages[1], pages[0], pages[5])
    logs = looked(workspace, tmp_path / "logs", hours=0.0)
    found: dict[str, list[int]] = {}
    for part in range(parts):
        for path, rows in repeated_pages(logs, part, parts).items():
            found[path] = sorted([*found.get(path, []), *rows.tolist()])
    assert found == {first: [4], second: [1, 2]}
    counted = {path: list(counted_pages(logs, path, np.array(found[path]))) for path in logs.files}
    assert [again for pages in counted.values() for _, again in pages] == [1, 2]
    assert [part.column("request_id").to_pylist() for pages in counted.values() for part, _ in pages] == [
        ["0", "1", "2", "3"],
        ["4", "5"],
    ]


def test_what_is_no_log_is_said(workspace, tmp_path):
    with pytest.raises(MissingTableError, match="table 'pages' does not exist"):
        survey(workspace, None, since=None, until=None, hours=24)
    with pytest.raises(FileNotFoundError, match=r"logs .*nowhere: expected Parquet files of pages, there is nothing"):
        looked(workspace, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"expected files \*\.parquet of pages, there are none"):
        looked(workspace, tmp_path / "empty")
    (tmp_path / "text.parquet").write_text("text")
    with pytest.raises(ValueError, match=r"text\.parquet: expected a Parquet file of pages"):
        looked(workspace, tmp_path / "text.parquet")
    pq.write_table(pa.table({"user_id": ["ann"]}), tmp_path / "users.parquet")
    with pytest.raises(ValueError, match="missing: timestamp, items, event_times"):
        looked(workspace, tmp_path / "users.parquet")


def test_an_empty_log_and_one_without_final_pages_are_said(workspace, tmp_path):
    write(tmp_path / "none.parquet")
    with pytest.raises(ValueError, match=r"none\.parquet: expected logged pages, got none"):
        looked(workspace, tmp_path / "none.parquet")
    workspace.table("pages").commit([])
    with pytest.raises(ValueError, match="expected logged pages, got an empty table"):
        survey(workspace, None, since=None, until=None, hours=24)
    write(tmp_path / "young.parquet", page("1", DAY_MS), page("2", DAY_MS + HOUR))
    with pytest.raises(ValueError, match=r"only pages before 1970-01-01 01:00 are final.*attribution_hours = 24"):
        looked(workspace, tmp_path / "young.parquet")
    with pytest.raises(ValueError, match=r"replay\.since: expected a day, YYYY-MM-DD, got 'soon'"):
        looked(workspace, tmp_path / "young.parquet", since="soon")
