from __future__ import annotations

import pytest

from pagewise.console import CLEAR, Console


def test_without_a_terminal_every_line_stays(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.progress("step 1")
    console.say("done", "in 2 s")
    assert capsys.readouterr().out == "  step 1\ndone\nin 2 s\n"


def test_on_a_terminal_progress_is_overwritten(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "9")
    console = Console()
    console.progress("step 1 of many")
    console.say("done")
    assert capsys.readouterr().out == f"{CLEAR}step 1 o{CLEAR}done\n"


def test_only_the_first_process_speaks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    console = Console()
    console.progress("step 1")
    console.say("done")
    assert capsys.readouterr().out == ""
