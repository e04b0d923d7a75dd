"""`pagewise demo` as a newcomer meets it: interrupted, run to its end, run again on top of itself."""

from __future__ import annotations

import functools
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pagewise.main import main

pytestmark = pytest.mark.integration

SETTINGS = """
simulate: {users: 160, items: 200, days: 8, new_items_per_day: 2, visits_per_day: 1.0}
batch: {split: {test_days: 2}}
train: {epochs: 2, learning_rate: 5.0e-3, log_every_steps: 1, checkpoint_every_steps: 5, checkpoint_every_seconds: null}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def command(folder: Path, smallest_models: str) -> list[str]:
    (folder / "tiny.yaml").write_text(smallest_models + SETTINGS)
    arguments = ["demo", "--workspace", str(folder / "demo"), "--config", str(folder / "tiny.yaml")]
    return [sys.executable, "-u", "-m", "pagewise.main", *arguments]


@pytest.fixture(scope="module")
def finished(command: list[str]) -> str:
    """What a demo prints that goes on after Ctrl-C."""
    code, rest = interrupted(command, r"epoch 1/2 step \d+/")
    assert code == 130, rest
    assert "Traceback" not in rest
    assert "the same command goes on from what is complete" in rest
    return demo(command)


def demo(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def interrupted(command: list[str], line: str) -> tuple[int, str]:
    """Run a command and press Ctrl-C once it has printed a line; return the exit code and all it printed."""
    before = ""
    # what a shell started in the background ignores SIGINT, and so would its children
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, preexec_fn=heed, **pipes) as process:
        assert process.stdout is not None
        for printed in process.stdout:
            before += printed
            if re.search(line, printed):
                break
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    return process.returncode, before + rest


def test_interrupted_and_finished(finished: str, folder: Path) -> None:
    assert finished.count("up to date (took") == 5  # validate, features, sequences, train-two-tower, semantic-ids
    for shown in (
        r"160 users, 214 items, 8 days, [\d,]+ pages",
        r"214 items, \d+ distinct IDs",
        r"epoch 2/2 step",
        r"genrec - popular: hr_at_10 [+-]",
        r"click: AUC ",
        r"GenRec run \S+ aligned on [\d,]+ pages of ",
        r"  page +\d\.\d+ \+- \d\.\d+ clicks",
        r"user u\d+, the last \d+ items of their history:",
        r"POST /v1/recommend -> page \w+:",
        r"  1\. .+ \((genrec|transitions|two_tower|popular), ",
        r"newcomer \w+ -> the popular list:",
        r"a click on .+ goes through the stream; \d+\.\d\d s later",
        r"the next page is:\s+1\. .+ \((genrec|transitions|two_tower), ",
        r"  verdict: (ship|do not ship|not enough evidence)",
        r"the truth, which only a simulated marketplace knows, on [\d,]+ of these pages",
        r"  \d\.\d+ clicks per page by the release, \d\.\d+ by who made the logs: [+-]\d",
        r"mlflow ui --backend-store-uri sqlite:",
        r"what to try next",
    ):
        assert re.search(shown, finished), f"{shown!r} is missing from:\n{finished}"
    assert leftovers(folder) == []


@pytest.mark.slow
def test_again_on_top_of_itself(finished: str, command: list[str], folder: Path) -> None:
    second = demo(command)
    assert second.count("up to date (took") == 13
    assert "stages run: none, all were up to date" in second
    assert "genrec - popular: hr_at_10" in second
    release = r"release (\w+) at http"
    assert re.findall(release, second) == re.findall(release, finished)
    assert leftovers(folder) == []


def leftovers(folder: Path) -> list[str]:
    """Command lines of processes that still work in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(folder) in line and process.name != str(os.getpid()):
            found.append(line)
    return found


def test_other_data_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = tmp_path / "tables" / "events" / "mine.csv"
    events.parent.mkdir(parents=True)
    events.write_text("user_id,item_id,event,timestamp\nann,i1,click,2025-01-01T00:00:00Z\n")
    assert main(["demo", "--workspace", str(tmp_path)]) == 2
    assert "holds the table 'events' of your own data" in capsys.readouterr().err
    assert events.exists()
