"""The stage engine with three real stages over text files: split words, count them, report the most frequent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from features.workspace import Workspace
from pipelines.jobs.stages import Stage, file_fingerprint, run_stage, run_stages

ALL = ["split", "count", "top"]


def word_stages(workspace: Workspace, lower: bool = True, top: int = 1) -> list[Stage]:
    def split(folder: Path) -> list[str]:
        text = workspace.read_bytes("raw.txt").decode()
        words = (text.lower() if lower else text).split()
        workspace.write_bytes("\n".join(words).encode(), "words.txt")
        return [f"{len(words)} words"]

    def count(folder: Path) -> list[str]:
        counts = Counter(workspace.read_bytes("words.txt").decode().split())
        lines = [f"{word} {times}" for word, times in sorted(counts.items())]
        workspace.write_bytes("\n".join(lines).encode(), "counts.txt")
        return [f"{len(counts)} different words"]

    def best(folder: Path) -> list[str]:
        lines = workspace.read_bytes("counts.txt").decode().splitlines()
        ordered = sorted(lines, key=lambda line: -int(line.split()[1]))[:top]
        workspace.write_bytes("\n".join(ordered).encode(), "top.txt")
        return ordered

    def files(name: str):
        return lambda folder=None: file_fingerprint(workspace, name)

    return [
        Stage(name="split", config={"lower": lower}, inputs=files("raw.txt"), outputs=files("words.txt"), run=split),
        Stage(name="count", config=None, inputs=files("words.txt"), outputs=files("counts.txt"), run=count),
        Stage(name="top", config={"top": top}, inputs=files("counts.txt"), outputs=files("top.txt"), run=best),
    ]


def ran(workspace: Workspace, stages: list[Stage]) -> list[str]:
    return [result.name for result in run_stages(workspace, stages, lambda line: None) if not result.skipped]


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    workspace = Workspace(tmp_path)
    workspace.write_bytes(b"The cat the dog", "raw.txt")
    return workspace


def test_a_second_run_does_nothing_and_repeats_the_reports(workspace):
    first = run_stages(workspace, word_stages(workspace), lambda line: None)
    assert [result.skipped for result in first] == [False] * 3
    assert workspace.read_bytes("top.txt") == b"the 2"
    lines: list[str] = []
    second = run_stages(workspace, word_stages(workspace), lines.append)
    assert [result.skipped for result in second] == [True] * 3
    assert [result.report for result in second] == [result.report for result in first]
    assert lines[0] == "[1/3] split"
    assert lines[1].startswith("  up to date")


def test_changed_configuration_runs_what_depends_on_it(workspace):
    assert ran(workspace, word_stages(workspace)) == ALL
    assert ran(workspace, word_stages(workspace, top=2)) == ["top"]
    assert ran(workspace, word_stages(workspace, lower=False, top=2)) == ALL
    # each stage finds its record of the first run, but what lies there is of the run between
    assert ran(workspace, word_stages(workspace)) == ALL


def test_changed_input_without_consequence_stops_where_nothing_changes(workspace):
    ran(workspace, word_stages(workspace))
    workspace.write_bytes(b"THE cat THE dog", "raw.txt")
    assert ran(workspace, word_stages(workspace)) == ["split"]
    workspace.write_bytes(b"the cat the cow", "raw.txt")
    assert ran(workspace, word_stages(workspace)) == ALL


def test_a_lost_or_altered_output_is_written_again(workspace):
    ran(workspace, word_stages(workspace))
    workspace.local_path("words.txt").unlink()
    assert ran(workspace, word_stages(workspace)) == ["split"]
    workspace.write_bytes(b"nonsense 9", "counts.txt")
    assert ran(workspace, word_stages(workspace)) == ["count"]
    assert workspace.read_bytes("top.txt") == b"the 2"


def test_a_failed_stage_is_no_record(workspace):
    def fail(folder: Path) -> list[str]:
        raise OSError("disk full")

    split = word_stages(workspace)[0]
    failing = Stage(name="split", config=split.config, inputs=split.inputs, outputs=split.outputs, run=fail)
    with pytest.raises(OSError, match="disk full"):
        run_stage(workspace, failing)
    assert not run_stage(workspace, split).skipped


def test_a_stage_that_writes_nothing_is_refused(workspace):
    idle = Stage(name="idle", config=None, inputs=dict, outputs=lambda folder: {}, run=lambda folder: ["slept"])
    with pytest.raises(RuntimeError, match=r"stage idle ended but wrote nothing: \['slept'\]"):
        run_stage(workspace, idle)


KILLED = """
import os, signal, sys
sys.path.insert(0, {folder!r})
from test_job_stages import word_stages
from features.workspace import Workspace
from pipelines.jobs.stages import run_stages

workspace = Workspace({root!r})
write, writes = workspace.write_bytes, 0

def write_or_die(content, *parts):
    global writes
    writes += 1
    if writes > {survive}:
        os.kill(os.getpid(), signal.SIGKILL)
    write(content, *parts)

workspace.write_bytes = write_or_die
run_stages(workspace, word_stages(workspace), lambda line: None)
"""


@pytest.mark.parametrize("survive", [1, 2, 5])
def test_killed_at_any_write_the_next_run_finishes(workspace, survive):
    """Six writes in all: an output and a record for each stage. The kill comes before write `survive`."""
    script = KILLED.format(folder=str(Path(__file__).parent), root=workspace.root, survive=survive)
    killed = subprocess.run([sys.executable, "-c", script], env=os.environ, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert ran(workspace, word_stages(workspace)) == ALL[survive // 2 :]
    assert workspace.read_bytes("top.txt") == b"the 2"
    assert ran(workspace, word_stages(workspace)) == []
