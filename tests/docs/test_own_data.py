"""What `docs/own_data.md` says of a user's tables."""

from __future__ import annotations

import re
from pathlib import Path

from features.schemas import EVENTS, SERVED_PAGES
from features.workspace import Workspace
from pipelines.batch.checks import check_rows
from pipelines.batch.raw import read_batches

PAGE = (Path(__file__).parents[2] / "docs" / "own_data.md").read_text()


def columns_of(table: str) -> dict[str, bool]:
    """The columns that the table's section names, and whether they are required."""
    section = PAGE.split(f"**{table}**", 1)[1].split("\n**", 1)[0]
    rows = re.findall(r"^\| (`.*`) \| (yes|no) \|", section, re.MULTILINE)
    return {name: needed == "yes" for names, needed in rows for name in re.findall(r"`(\w+)`", names)}


def test_every_column_is_told_of() -> None:
    for table, schema in (("events", EVENTS), ("served_pages", SERVED_PAGES)):
        assert columns_of(table) == {field.name: not field.nullable for field in schema}, table


def test_the_example_of_a_served_page_passes(tmp_path: Path) -> None:
    found = re.search(r"^```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    path = tmp_path / "pages.jsonl"
    path.write_text(found[1])
    [batch] = read_batches(Workspace(tmp_path).filesystem, str(path))
    checked = check_rows("served_pages", batch)
    assert checked.dead.to_pylist() == []
    assert checked.rows.num_rows == 1


def test_the_example_of_items_in_a_csv_passes(tmp_path: Path) -> None:
    found = re.search(r"^```csv\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    path = tmp_path / "items.csv"
    path.write_text(found[1])
    [batch] = read_batches(Workspace(tmp_path).filesystem, str(path))
    checked = check_rows("items", batch)
    assert checked.dead.to_pylist() == []
    assert checked.rows.column("category").to_pylist() == [["Toys", "Cars"]] * 2
