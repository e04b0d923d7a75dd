from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("bench_run", Path(__file__).parent / "run.py")
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)

RESULT = {"name": "x", "ours": 2.0, "peer": 8.0, "peer_name": "slow", "unit": "ms", "ratio": 4.0, "better": "lower"}


def test_a_right_result_passes_and_reaches_table_and_file(tmp_path: Path) -> None:
    alone = {**RESULT, "name": "y", "peer": None, "peer_name": None, "ratio": None}
    lines = bench.table([bench.checked(RESULT), bench.checked(alone)])
    assert lines[1].split() == ["x", "2", "8", "ms", "(lower", "is", "better)", "4.00x", "slow"]
    assert lines[2].split()[-2:] == ["-", "-"]
    bench.write([RESULT], tmp_path / "build" / "bench.json")
    (written,) = json.loads((tmp_path / "build" / "bench.json").read_text())
    assert written == {**written, **RESULT}
    assert written["machine"]["cores"] >= 1
    assert {"python", "numpy"} <= set(written["versions"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ratio": 0.25}, "ratio must be 4.0, got 0.25"),
        ({"peer": None}, "ratio must be None, got 4.0"),
        ({"better": "faster"}, "better must be 'higher' or 'lower', got 'faster'"),
    ],
)
def test_a_wrong_result_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bench.checked({**RESULT, **change})


def test_benchmarks_are_found_and_have_a_name_and_a_run() -> None:
    for name, module in bench.discover().items():
        assert isinstance(name, str)
        assert callable(module.run)


def test_an_unknown_benchmark_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--only", "nonsense"]) == 2
    assert "there is no benchmark 'nonsense'" in capsys.readouterr().err
