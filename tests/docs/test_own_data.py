"""What `docs/own_data.md` says of a user's tables."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa

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


def accepted(language: str, table: str, path: Path) -> pa.Table:
    """Return the rows of the page's first example in a language, given as a file of a table: all of them are good."""
    found = re.search(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    path.write_text(found[1])
    [batch] = read_batches(Workspace(path.parent).filesystem, str(path))
    checked = check_rows(table, batch)
    assert checked.dead.to_pylist() == []
    return checked.rows


def test_the_example_of_a_served_page_passes(tmp_path: Path) -> None:
    assert accepted("json", "served_pages", tmp_path / "pages.jsonl").num_rows == 1


def test_the_example_of_items_in_a_csv_passes(tmp_path: Path) -> None:
    items = accepted("csv", "items", tmp_path / "items.csv")
    assert items.column("category").to_pylist() == [["Toys", "Cars"]] * 2
