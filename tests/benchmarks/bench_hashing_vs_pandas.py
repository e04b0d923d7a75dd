"""`kernels.hashing.hash_strings` against `pandas.util.hash_array` on the same strings, one thread.

pandas hashes Python strings (an object array) and, with `categorize=True` (its default), first factorises them; here it
gets what suits it best of four: object or Arrow-backed array, categorised or not. Strings are ids like a log's, a
quarter of them distinct.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from kernels.hashing import hash_strings

NAME = "hashing_vs_pandas"
REPEATS = 3


def run(full: bool) -> list[dict[str, Any]]:
    """Measure 10**6 ids; with `full` also short codes, long texts and other sizes."""
    results = [measured(NAME, ids(10**6, "user-"))]
    if full:
        results += [
            measured(f"{NAME}[{title}]", strings)
            for title, strings in (
                ("1e5 ids", ids(10**5, "user-")),
                ("1e7 ids", ids(10**7, "user-")),
                ("1e6 hex ids of 36 bytes", ids(10**6, "0b6f7f0e-5d6a-4c55-8f5c-f0")),
                ("1e6 texts of 80 bytes", ids(10**6, "x" * 70)),
            )
        ]
    return results


def ids(size: int, prefix: str) -> pa.Array:
    """Return strings of up to ten bytes and a prefix, a quarter of them distinct."""
    numbers = np.random.default_rng(size).integers(0, size // 4, size) * 7919
    return pc.binary_join_element_wise(prefix, pa.array(numbers).cast(pa.string()), "")


def measured(name: str, strings: pa.Array) -> dict[str, Any]:
    """Hash the strings both ways and return the result."""
    objects, arrow = strings.to_numpy(zero_copy_only=False), pd.array(strings, dtype=pd.ArrowDtype(pa.string()))
    peers = {
        f"{kind}, categorize={categorize}": (values, categorize)
        for (kind, values), categorize in itertools.product({"object": objects, "Arrow": arrow}.items(), (True, False))
    }
    seconds = {
        title: best(lambda values=values, flag=flag: pd.util.hash_array(values, categorize=flag))
        for title, (values, flag) in peers.items()
    }
    fastest = min(seconds, key=lambda title: seconds[title])
    ours = best(lambda: hash_strings(strings))
    assert_as_many_distinct(strings, objects)
    return {
        "name": name,
        "ours": len(strings) / ours,
        "peer": len(strings) / seconds[fastest],
        "peer_name": f"pandas {pd.__version__} ({fastest})",
        "unit": "strings/s",
        "ratio": seconds[fastest] / ours,
        "better": "higher",
    }


def best(work: Callable[[], object]) -> float:
    """Return the seconds of the fastest of a few runs."""
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def assert_as_many_distinct(strings: pa.Array, objects: np.ndarray) -> None:
    """Raise unless both hashes tell the strings apart as the strings themselves do."""
    distinct = pc.count_distinct(strings).as_py()
    assert len(np.unique(hash_strings(strings))) == distinct
    assert len(np.unique(pd.util.hash_array(objects))) == distinct
