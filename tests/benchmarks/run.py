"""Run the benchmarks: one table on the terminal, all figures with machine and versions in build/bench.json.

A benchmark is a module `bench_*.py` beside this file with `NAME` and `run(full) -> list of results`; each result has
the keys of `FIELDS`, measured side by side in this run after the equality of the results was asserted.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).parent
FIELDS = ("name", "ours", "peer", "peer_name", "unit", "ratio", "better")
LIBRARIES = (
    "torch",
    "torchrec",
    "apache-beam",
    "pyarrow",
    "numpy",
    "duckdb",
    "transformers",
    "ray",
    "redis",
    "faiss-cpu",
)


def discover(folder: Path = HERE) -> dict[str, ModuleType]:
    """Import the benchmarks of a folder, by name."""
    found = {}
    for path in sorted(folder.glob("bench_*.py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
        found[module.NAME] = module
    return found


def checked(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result whose form is right.

    Raises:
        ValueError: A field is missing, or `ratio` is not how many times better ours is.
    """
    missing = [field for field in FIELDS if field not in result]
    if missing:
        raise ValueError(f"benchmark {result.get('name')!r} lacks {', '.join(missing)}")
    if result["better"] not in ("higher", "lower"):
        raise ValueError(f"benchmark {result['name']!r}: better must be 'higher' or 'lower', got {result['better']!r}")
    if result["peer"] is None:
        expected = None
    elif result["better"] == "higher":
        expected = result["ours"] / result["peer"]
    else:
        expected = result["peer"] / result["ours"]
    if (expected is None) != (result["ratio"] is None) or (expected and abs(result["ratio"] / expected - 1) > 0.01):
        raise ValueError(f"benchmark {result['name']!r}: ratio must be {expected}, got {result['ratio']}")
    return result


def machine() -> dict[str, Any]:
    """Describe the machine the figures belong to."""
    import psutil

    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / (1 << 30), 1),
        "system": platform.platform(),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that the figures depend on."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def table(results: Sequence[dict[str, Any]]) -> list[str]:
    """Return the results as the lines of a table."""
    header = ("name", "ours", "peer", "unit", "ratio", "against")
    rows = [
        (
            result["name"],
            f"{result['ours']:,.4g}",
            "-" if result["peer"] is None else f"{result['peer']:,.4g}",
            f"{result['unit']} ({result['better']} is better)",
            "-" if result["ratio"] is None else f"{result['ratio']:.2f}x",
            result["peer_name"] or "-",
        )
        for result in results
    ]
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]


def write(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the list of results, each with the machine and the versions it was measured with."""
    path.parent.mkdir(parents=True, exist_ok=True)
    origin = {
        "measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine(),
        "versions": versions(),
    }
    path.write_text(json.dumps([{**result, **origin} for result in results], indent=2) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all benchmarks, or the one named."""
    parser = argparse.ArgumentParser(description="Run the benchmarks.")
    parser.add_argument("--only", metavar="NAME")
    parser.add_argument("--full", action="store_true", help="growth curves too")
    parser.add_argument("--output", type=Path, default=HERE.parent.parent / "build" / "bench.json")
    args = parser.parse_args(arguments)
    benchmarks = discover()
    if args.only is not None and args.only not in benchmarks:
        print(f"there is no benchmark {args.only!r}; expected one of {', '.join(benchmarks)}", file=sys.stderr)
        return 2
    results: list[dict[str, Any]] = []
    for name in benchmarks if args.only is None else [args.only]:
        print(f"{name} ...", file=sys.stderr, flush=True)
        results.extend(checked(result) for result in benchmarks[name].run(args.full))
    print("\n".join(table(results)))
    write(results, args.output)
    print(f"written: {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
