import numpy as np
import pytest

from kernels.jagged import columns, concat_ranges, offsets_from_lengths, row_numbers


@pytest.mark.parametrize("seed", range(20))
def test_equals_python_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 4, rng.integers(0, 8))
    starts = rng.integers(0, 50, len(lengths))
    assert offsets_from_lengths(lengths).tolist() == [int(lengths[:r].sum()) for r in range(len(lengths) + 1)]
    assert concat_ranges(starts, lengths).tolist() == [
        int(s) + j for s, n in zip(starts, lengths, strict=True) for j in range(n)
    ]
    assert row_numbers(lengths).tolist() == [r for r, n in enumerate(lengths) for _ in range(n)]
    assert columns(lengths).tolist() == [j for n in lengths for j in range(n)]
