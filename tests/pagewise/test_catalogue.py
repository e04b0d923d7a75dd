"""`pagewise catalogue` on a registered release: files in, deltas out, and a new champion that knows them."""

from __future__ import annotations

import argparse
import importlib.util
import json
import threading
from pathlib import Path

import pytest

from features.workspace import Workspace
from models.recommend.delta_files import delta_numbers, read_deltas, together
from models.registry import Registry
from pagewise.commands import catalogue
from pagewise.main import main
from pagewise.settings import Settings
from pipelines.batch.item_files import checked_items

pytestmark = pytest.mark.integration
KITE = {"item_id": "n1", "title": "kite rope", "category": ["aisle0"], "brand": "nova", "price": 5}


@pytest.fixture(scope="module")
def workspace(repository, tmp_path_factory) -> Workspace:
    """A registry with a champion and a challenger, without models."""
    file = repository / "tests" / "models" / "recommend" / "release_cases.py"
    spec = importlib.util.spec_from_file_location("release_cases", file)
    cases = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cases)
    workspace = cases.make_workspace(tmp_path_factory.mktemp("catalogue") / "ws")
    registry = Registry(workspace)
    for page_size in (5, 6):
        release = cases.make_release(workspace.local_path("releases"), workspace, None, page_size=page_size)
        registry.register(workspace.local_path("releases", release.release_id))
    registry.promote(1)
    return workspace


def run(capsys, workspace: Workspace, *arguments: str) -> tuple[int, list[str], str]:
    code = main([*arguments, "--workspace", workspace.uri])
    shown = capsys.readouterr()
    return code, [line for line in shown.out.splitlines() if not line.startswith(("preset", "  "))], shown.err


def test_from_a_file_to_a_new_champion(workspace, tmp_path: Path, capsys):
    file = tmp_path / "items.jsonl"
    file.write_text("\n".join(map(json.dumps, [KITE, KITE, {**KITE, "item_id": "n2", "price": -1}])) + "\nno json\n")
    champion, challenger = (Registry(workspace).resolve(alias) for alias in ("champion", "challenger"))

    code, lines, _ = run(capsys, workspace, "catalogue", "append", "--items", str(file))
    assert code == 0
    assert lines[0] == f"release {champion.name}, delta 1: 1 items appended, 0 changed, 0 back again, 0 withdrawn"
    refused = next(line for line in lines if "rows refused" in line)
    assert refused.startswith("3 rows refused (")
    assert {"malformed 1", "negative_price 1", "duplicate 1"} == set(refused.split("(")[1].split(")")[0].split(", "))
    letters = [json.loads(line) for line in Path(refused.split("): ")[1]).read_text().splitlines()]
    assert {letter["reason"] for letter in letters} == {"malformed", "negative_price", "duplicate"}

    assert "nothing to change" in run(capsys, workspace, "catalogue", "append", "--items", str(file))[1][0]
    (tmp_path / "ids").write_text("i03\n\ni04\n")
    lines = run(capsys, workspace, "catalogue", "withdraw", "--items-file", str(tmp_path / "ids"))[1]
    assert lines[0].endswith("0 back again, 2 withdrawn")
    assert run(capsys, workspace, "catalogue", "show")[1][-1].endswith("with 2 deltas: 1 items appended, 2 withdrawn")

    assert delta_numbers(challenger) == []
    lines = run(capsys, workspace, "promote", "--force")[1]
    assert lines[0].endswith(
        f"1 items appended, 0 changed, 0 back again, 2 withdrawn, carried over from release {champion.name}"
    )
    run(capsys, workspace, "catalogue", "withdraw", "--items", "i05, i06")
    assert "2 withdrawn, carried over" in run(capsys, workspace, "rollback")[1][0]
    assert delta_numbers(champion) == [1, 2, 3]


def test_what_is_withdrawn_during_a_promotion_is_withdrawn_from_the_new_champion(workspace, capsys):
    """Asked for right after deltas were taken over, before the alias moves."""
    registry = Registry(workspace)
    old, number = registry.resolve(), 3 - registry.version("champion")
    assert run(capsys, workspace, "catalogue", "withdraw", "--items", "i08")[0] == 0
    asked = argparse.Namespace(
        action="withdraw", items="i07", items_file=None, alias="champion", workspace=workspace.uri
    )
    entered = threading.Event()

    def withdraw() -> None:
        entered.set()
        catalogue.run(asked, Settings())

    writer = threading.Thread(target=withdraw)

    def between(line: str) -> None:
        assert "1 withdrawn, carried over from release" in line
        writer.start()
        entered.wait()
        writer.join(timeout=1)
        assert writer.is_alive()

    Registry(workspace, progress=between).promote(number, force=True)
    writer.join()
    assert gone(old) >= {"i08"}
    assert "i07" not in gone(old)
    assert gone(registry.resolve()) >= {"i07", "i08"}


def gone(release: Path) -> set[str]:
    changes = together(read_deltas(release)[0])
    return set() if changes is None else set(changes.withdrawn.to_pylist())


def test_an_empty_title_passes_as_in_validation_and_a_missing_one_does_not(tmp_path):
    rows = [{"item_id": "n1", "title": ""}, {"item_id": "n2"}, {"item_id": "n3", "title": None}]
    file = tmp_path / "items.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    checked = checked_items(file)
    assert checked.rows["item_id"].to_pylist() == ["n1"]
    assert checked.dead["detail"].to_pylist() == [f"title: expected a title, got None (row {row})" for row in (2, 3)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("append",), "append: expected --items FILE"),
        (("append", "--items", "nowhere.csv"), "no file of items at nowhere.csv"),
        (("withdraw",), "withdraw: expected either --items ID,ID or --items-file FILE"),
        (("withdraw", "--items", ","), "withdraw: expected ids of items, got none"),
        (("withdraw", "--items-file", "nowhere"), "no file of ids at nowhere"),
        (("withdraw", "--items", "zz"), "items to withdraw: expected ids of release"),
    ],
)
def test_mistakes(workspace, capsys, arguments, message):
    code, _, error = run(capsys, workspace, "catalogue", *arguments)
    assert code == 2
    assert message in error


def test_a_file_without_a_good_row_is_a_mistake(workspace, tmp_path, capsys):
    file = tmp_path / "items.csv"
    file.write_text("item_id,title\n,kite\n")
    code, _, error = run(capsys, workspace, "catalogue", "append", "--items", str(file))
    assert code == 2
    assert "got no row that can be used\n1 rows refused (null_id 1)" in error
