"""Logs made by a known policy on a shelf of twelve items, with all that a page says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.schemas import PAGES
from models.recommend.policy import Policy
from pipelines.batch.arrow import DAY_MS

ITEMS, CANDIDATES, SLOTS = 12, 6, 3
CLICKS = np.linspace(0.05, 0.6, ITEMS)
"""Chance that an item is clicked, wherever it stands."""
POLICY = Policy(epsilon=0.4, temperature=1.0)


def logged_pages(
    count: int, users: int, seed: int = 0, *, items: int = ITEMS, candidates: int = CANDIDATES, slots: int = SLOTS
) -> list[dict[str, Any]]:
    """Pages of one day, of these users in turn."""
    rng = np.random.default_rng(seed)
    clicks = np.linspace(CLICKS[0], CLICKS[-1], items)
    candidate_RK = np.stack([rng.permutation(items)[:candidates] for _ in range(count)])
    score_RK = rng.normal(size=(count, candidates)).astype(np.float32)
    there_RK = np.ones(score_RK.shape, dtype=bool)
    choice_RP, propensity_RP = POLICY.draw(score_RK, there_RK, rng.random((count, slots)))
    item_RP = np.take_along_axis(candidate_RK, choice_RP, axis=1)
    click_RP = rng.random(item_RP.shape) < clicks[item_RP]
    pages = []
    for row in range(count):
        time = row * (DAY_MS // count)
        pages.append(
            {
                "request_id": f"page {row}",
                "user_id": f"user {row % users}",
                "timestamp": time,
                "policy": POLICY.name,
                "items": [name_of(item) for item in item_RP[row]],
                "propensities": propensity_RP[row].tolist(),
                "candidates": [name_of(item) for item in candidate_RK[row]],
                "candidate_scores": score_RK[row].tolist(),
                "epsilon": POLICY.epsilon,
                "temperature": POLICY.temperature,
                "events": ["click" if clicked else "impression" for clicked in click_RP[row]],
                "event_times": [time] * slots,
            }
        )
    return pages


def name_of(item: int) -> str:
    """Id of an item."""
    return f"item {item:02d}"


def write_logs(folder: Path, pages: list[dict[str, Any]], files: int = 1) -> str:
    """Write pages, dealt out to so many files."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        part = pages[number::files]
        schema = pa.schema([PAGES.field(name) for name in PAGES.names if name in part[0]])
        pq.write_table(pa.Table.from_pylist(part, schema), folder / f"{number}.parquet")
    return str(folder)


def write_policy(path: Path, weights: np.ndarray) -> str:
    """Write a table of probabilities by item and return the policy's name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {"item_id": [name_of(item) for item in range(ITEMS)], "probability": weights / weights.sum()}
    pq.write_table(pa.table(table), path)
    return f"table:{path}"
