"""`pagewise replay` beside its report: what it prints as the next command, and how early mistakes are told."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

from pagewise.commands import promote, replay
from pagewise.invocation import load_settings, parse
from pipelines.replay.verdicts import deciding_options


def test_the_command_to_promote_repeats_what_decides(tmp_path: Path) -> None:
    file = tmp_path / "own settings.yaml"
    file.write_text("replay: {margin: 0.01}")
    asked = ["--workspace", "my shop", "--preset", "small", "--config", str(file), "--challenger", "challenger"]
    asked += ["replay.reward.purchase=5", "replay.unit=user", "replay.draws=8", "tracking.uri=http://mlflow"]
    args = parse("replay", "", replay, asked)
    program, verb, *arguments = shlex.split(replay.promotion(args))
    assert (program, verb) == ("pagewise", "promote")
    promoting = parse("promote", "", promote, arguments)
    assert promoting.overrides == ["replay.reward.purchase=5", "replay.unit=user", "tracking.uri=http://mlflow"]
    replayed, promoted = load_settings(args), load_settings(promoting)
    assert deciding_options(promoted.replay) == deciding_options(replayed.replay)
    assert (promoting.workspace, promoted.tracking) == ("my shop", replayed.tracking)


def test_the_command_to_promote_is_short_where_nothing_was_asked() -> None:
    assert replay.promotion(parse("replay", "", replay, [])) == "pagewise promote --workspace ./workspace"


def test_a_policy_that_is_none_is_told_before_heavy_libraries_are_loaded(tmp_path: Path) -> None:
    code = (
        "import sys; from pagewise.main import main; "
        f"code = main(['replay', '--workspace', {str(tmp_path)!r}, '--champion', 'nonsense']); "
        "sys.exit(code + 10 * any(name in sys.modules for name in ('torch', 'apache_beam', 'sklearn', 'mlflow')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "policy 'nonsense': expected champion, challenger, popular" in done.stderr
