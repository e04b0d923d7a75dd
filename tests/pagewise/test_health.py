from __future__ import annotations

import socket
from pathlib import Path

import pytest

from pagewise import health
from pagewise.main import main
from pagewise.settings import Settings


def test_what_a_check_raises_is_its_finding() -> None:
    def fails() -> str:
        raise RuntimeError("3 GiB, expected 5")

    assert health.examine(health.Check("disk", fails, "free some space")) == health.Finding(
        "disk", False, "3 GiB, expected 5", "free some space"
    )


def test_a_taken_port_is_found() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(RuntimeError, match=f"port {port} is taken"):
            health.free_port(port)


def test_too_little_disk_and_memory_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(health, "MINIMUM_DISK_GIB", 10.0**9)
    monkeypatch.setattr(health, "MINIMUM_MEMORY_GIB", 10.0**9)
    with pytest.raises(RuntimeError, match=f"free at {tmp_path}, expected at least 1000000000"):
        health.free_disk(health.nearest_folder(str(tmp_path / "not" / "yet")))
    with pytest.raises(RuntimeError, match="expected at least 1000000000"):
        health.free_memory()


def test_a_probe_that_cannot_connect_is_a_finding() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(RuntimeError, match=r"refused.*\(exit code 1\)"):
            health.probe("redis", {"PAGEWISE_PROBE_REDIS": f"redis://127.0.0.1:{port}"})


def test_a_probe_that_hangs_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "PROBE_SECONDS", 0.01)
    with pytest.raises(RuntimeError, match=r"no answer within 0\.01 s"):
        health.probe("mlflow")


def test_every_check_has_a_mend(tmp_path: Path) -> None:
    found = health.checks(str(tmp_path), Settings())
    assert [check.name for check in found] == [
        "python", "torch", "beam", "mlflow", "redis", "ray", "disk", "memory", "port",
    ]  # fmt: skip
    assert all(check.mend for check in found)


@pytest.mark.integration
@pytest.mark.slow
def test_doctor_runs_every_library_and_tells_by_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert main(["doctor", "--workspace", str(tmp_path), f"serve.port={port}"]) == 1
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines() if not line.startswith(" ")][:-1] == ["ok"] * 8 + ["FAIL"]
    assert f"mend: stop what listens on {port}, or serve elsewhere: serve.port={port + 1}" in shown
    assert shown.splitlines()[-1] == "1 of 9 checks failed"
