"""Compares embedding methods at equal bytes on public click data: examples, runs, baselines, one table and one plot."""
