"""What a killed service leaves in /tmp is removed by the next one; what a living one uses is not."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from pathlib import Path

from serving.folders import take_folder

HOLD = """
import contextlib, sys, time
from pathlib import Path
from serving.folders import take_folder

with contextlib.ExitStack() as cleanup:
    print(take_folder(cleanup, Path(sys.argv[1])), flush=True)
    time.sleep(60)
"""


def test_the_next_service_removes_what_a_killed_one_left(tmp_path):
    foreign = tmp_path / "pw-of-something-else"  # without a lock: not one of these folders
    foreign.mkdir()
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True) as other:
        held = Path(other.stdout.readline().strip())
        with contextlib.ExitStack() as cleanup:
            own = take_folder(cleanup, tmp_path)
            assert set(tmp_path.iterdir()) == {own, held, foreign}
        assert not own.exists()
        other.send_signal(signal.SIGKILL)
        other.wait()
    with contextlib.ExitStack() as cleanup:
        own = take_folder(cleanup, tmp_path)
        assert set(tmp_path.iterdir()) == {own, foreign}
