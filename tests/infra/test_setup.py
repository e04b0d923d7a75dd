"""The set-up script's own logic: pip and the network are replaced by a recorder; `make setup` runs the real thing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

RECORDER = """#!/bin/bash
if [ "$*" = "-m pip --version" ]; then exit 0; fi
echo "$*" >> calls
if [ -f broken ]; then echo "no such wheel"; exit 1; fi
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "infra", tmp_path / "infra")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(RECORDER)
    python.chmod(0o755)
    return tmp_path


def set_up(project: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "infra/setup.sh"],
        cwd=project,
        env={**os.environ, "CUDA": "", "PYTHON": "", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def calls(project: Path) -> list[str]:
    record = project / "calls"
    lines = record.read_text().splitlines() if record.exists() else []
    record.unlink(missing_ok=True)
    return lines


def test_torch_comes_first_the_rest_in_one_call_torchrec_without_dependencies(project: Path) -> None:
    done = set_up(project)
    assert done.returncode == 0, done.stderr
    first, second, third, fourth = calls(project)
    assert "torch-cpu.txt" in first
    assert "runtime.txt" in second
    assert "dev.txt" in second
    assert "--no-deps -r infra/requirements/torchrec.txt" in third
    assert "--editable ." in fourth
    assert all("--only-binary :all:" in call for call in (first, second, third))


def test_what_is_done_is_skipped_until_a_requirement_changes(project: Path) -> None:
    set_up(project)
    calls(project)
    again = set_up(project)
    assert (again.returncode, again.stdout, calls(project)) == (0, "", [])
    with (project / "infra" / "requirements" / "dev.txt").open("a") as requirements:
        requirements.write("einops==0.8.1\n")
    assert set_up(project).returncode == 0
    assert len(calls(project)) == 4


def test_a_failure_shows_pips_words_and_the_next_run_goes_on(project: Path) -> None:
    (project / "broken").touch()
    failed = set_up(project)
    assert failed.returncode == 1
    assert "no such wheel" in failed.stderr
    assert "make setup again" in failed.stderr
    assert len(calls(project)) == 1
    (project / "broken").unlink()
    assert set_up(project).returncode == 0
    assert len(calls(project)) == 4


def test_a_half_installed_package_is_forgotten(project: Path) -> None:
    packages = project / ".venv" / "lib" / "python3.11" / "site-packages"
    for name in ("whole-1.dist-info", "half-1.dist-info"):
        (packages / name).mkdir(parents=True)
    (packages / "whole-1.dist-info" / "RECORD").touch()
    set_up(project)
    assert [path.name for path in packages.iterdir()] == ["whole-1.dist-info"]


def test_cuda_takes_the_other_pair(project: Path) -> None:
    set_up(project, CUDA="1")
    text = "\n".join(calls(project))
    assert "cuda/torch.txt" in text
    assert "--no-deps -r infra/requirements/cuda/torchrec.txt" in text
    assert "torch-cpu.txt" not in text


def test_a_missing_python_is_explained(project: Path) -> None:
    shutil.rmtree(project / ".venv")
    failed = set_up(project, PYTHON="python-nowhere")
    assert failed.returncode == 1
    assert "expected Python 3.11 as 'python-nowhere'" in failed.stderr
    assert "make setup PYTHON=" in failed.stderr


def test_every_requirement_is_pinned_and_constrained_to_the_same_version() -> None:
    folder = ROOT / "infra" / "requirements"

    def pins(path: Path) -> dict[str, str]:
        lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
        pairs = [line.split("==") for line in lines if line and not line.startswith("-r ")]
        assert all(len(pair) == 2 for pair in pairs), f"{path.name} has a requirement without =="
        return {name.split("[")[0].lower().replace("_", "-"): version for name, version in pairs}

    constraints = pins(folder / "constraints.txt")
    for path in (*folder.glob("*.txt"), *folder.glob("cuda/*.txt")):
        for name, version in pins(path).items():
            if name in constraints:
                assert version == constraints[name], f"{path.name}: {name}"
    installed = {**pins(folder / "runtime.txt"), **pins(folder / "dev.txt"), **pins(folder / "kafka.txt")}
    assert installed.keys() - constraints.keys() == {"setuptools"}
