"""The Triton kernels compile for a GPU where none is at hand: what the interpreter cannot tell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration


def test_kernels_compile_to_machine_code(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    worker = Path(__file__).with_name("compile_kernels.py")
    output = subprocess.run(
        [sys.executable, worker], env=environment, capture_output=True, text=True, check=False, timeout=240
    )
    assert output.returncode == 0, output.stderr
    kernels = [line.split()[0] for line in output.stdout.splitlines()]
    assert kernels == ["_attend"] * 2 + ["_score_children"] * 2
