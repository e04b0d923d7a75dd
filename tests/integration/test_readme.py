"""The commands of the README, run in their order on a newcomer's own CSV files."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as csv
import pytest

from features.workspace import Workspace
from pagewise.main import main
from pipelines.simulator.config import SimulateConfig
from pipelines.simulator.job import simulate

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parent.parent.parent
SETTINGS = """
train: {epochs: 1, threads: 1}
serve: {port: 0}
"""


def readme_commands(workspace: str) -> list[list[str]]:
    blocks = re.findall(r"^```bash\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if f"--workspace {workspace}" in line]
    return [shlex.split(line)[1:] for line in lines]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, smallest_models: str) -> Path:
    """A folder with `shop/tables/`: events and items as plain CSV, as somebody would export them."""
    folder = tmp_path_factory.mktemp("own-data")
    (folder / "tiny.yaml").write_text(smallest_models + SETTINGS)
    source = Workspace(folder / "source")
    simulate(SimulateConfig(users=100, items=200, days=8, visits_per_day=1.0), source, seed=3)
    columns = {
        "events": ["user_id", "item_id", "event", "timestamp", "request_id", "position"],
        "items": ["item_id", "title", "brand", "price"],
    }
    for name, chosen in columns.items():
        target = folder / "shop" / "tables" / name
        target.mkdir(parents=True)
        rows: pa.Table = source.table(name).read(chosen)
        csv.write_csv(rows, target / f"{name}.csv")
    return folder


def test_own_data_from_validation_to_a_served_page(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    commands = readme_commands("shop")
    assert [command[0] for command in commands] == ["validate", "run", "promote", "serve"]
    for command in commands[:-1]:
        assert main([*command, "--config", "tiny.yaml"]) == 0, capsys.readouterr().err
    shown = capsys.readouterr().out
    assert re.search(r"events: ([\d,]+) in, \1 out", shown)
    assert "genrec - popular" in shown
    assert "version 1 is the champion" in shown

    arguments = [sys.executable, "-u", "-m", "pagewise.main", *commands[-1], "--config", "tiny.yaml"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        printed = []
        for line in process.stdout:
            printed.append(line)
            if found := re.search(r"serving release \w+ at (http\S+)", line):
                break
        else:
            pytest.fail("".join(printed))
        message = urllib.request.Request(
            f"{found[1]}/v1/recommend",
            json.dumps({"user_id": "u000001", "page_size": 4}).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(message, timeout=30) as answer:
            page = json.load(answer)
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert len(page["items"]) == 4
    assert page["arm"] == "champion"
    assert process.returncode == 0, rest
    assert "stopped" in rest


def test_stage_by_stage_gives_what_the_daily_job_gave(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other commands of the README's table, one after the other, on the workspace of the daily job."""
    monkeypatch.chdir(folder)
    commands = ("features", "sequences", "train two-tower", "semantic-ids", "train genrec", "train ranker", "align")
    for command in (*commands, "evaluate", "register"):
        arguments = [*command.split(), "--workspace", "shop", "--preset", "small", "--config", "tiny.yaml"]
        assert main(arguments) == 0, command
    assert capsys.readouterr().out.count("up to date (took") == 5  # evaluate, release, store, replay, register
    assert main(["recommend", "--workspace", "shop", "--preset", "small", "--config", "tiny.yaml"]) == 0
    pages = Workspace(folder / "shop").table("recommendations").read(["user_id", "items"])
    assert pages.num_rows == len(set(pages["user_id"].to_pylist())) > 50
    capsys.readouterr()
    assert main(["rollback", "--workspace", "shop"]) == 2
    assert "version 1 is the first champion" in capsys.readouterr().err
    assert main(["run", "--workspace", "shop", "--preset", "small", "--config", "tiny.yaml"]) == 0
    assert "all were up to date" in capsys.readouterr().out


def test_simulate_and_import_write_raw_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace = ["--workspace", str(tmp_path / "simulated")]
    assert main(["simulate", *workspace, "simulate.users=50", "simulate.items=200", "simulate.days=2"]) == 0
    (tmp_path / "ml").mkdir()
    (tmp_path / "ml" / "u.data").write_text("196\t242\t3\t881250949\n186\t302\t3\t891717742\n")
    films = [f"{number}|Film (1996)|01-Jan-1996||http|{'|'.join('0' * 19)}\n" for number in (242, 302)]
    (tmp_path / "ml" / "u.item").write_text("".join(films))
    imported = ["import", "movielens", "--source", str(tmp_path / "ml"), "--workspace", str(tmp_path / "movies")]
    assert main(imported) == 0, capsys.readouterr().err
    assert Workspace(tmp_path / "movies").table("events").read().num_rows == 2
    assert "next: pagewise run" in capsys.readouterr().out


def test_a_workspace_without_data_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    stages = ("validate", "features", "sequences", "train two-tower", "semantic-ids", "train genrec", "train ranker")
    for verb in (*stages, "align", "evaluate", "register", "run"):
        assert main([*verb.split(), "--workspace", str(tmp_path / "empty")]) == 2, verb
        shown = capsys.readouterr().err
        assert str(tmp_path) in shown, verb
        assert "Traceback" not in shown
    for verb in ("promote", "rollback", "serve", "recommend"):
        assert main([verb, "--workspace", str(tmp_path / "empty")]) == 2, verb
        assert re.search("`pagewise (register|promote)` makes", capsys.readouterr().err), verb
