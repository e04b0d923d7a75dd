from __future__ import annotations

import subprocess
import sys

import pytest

from pipelines.jobs.lock import LockedError, exclusive

HOLD = """
import sys
from pathlib import Path
from pipelines.jobs.lock import exclusive

with exclusive(Path({path!r})):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    script = HOLD.format(path=str(tmp_path / "job.lock"))
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_live_holder_is_named(holder, tmp_path):
    named = rf"process {holder.pid} \(since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC\) is running a job in this workspace"
    with pytest.raises(LockedError, match=named):
        exclusive(tmp_path / "job.lock").__enter__()


def test_the_lock_of_a_killed_process_is_free(holder, tmp_path):
    holder.kill()
    holder.communicate()
    with exclusive(tmp_path / "job.lock"):
        pass
    with exclusive(tmp_path / "job.lock"):
        pass
