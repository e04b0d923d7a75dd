"""A workspace of 12 items with a release, and pages that a known policy drew of known candidates."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

from features.workspace import Workspace
from models.recommend.policy import Policy, uniform_numbers

sys.path.insert(0, str(Path(__file__).parents[2] / "models" / "recommend"))

from logged_pages import page, table
from release_cases import DAY, ITEM_COUNT, USERS, make_release, make_workspace

ITEMS = [f"i{number:02d}" for number in range(ITEM_COUNT)]
LOGGER = Policy(epsilon=0.2, temperature=1.0)


def make_world(root: Path, **config: float) -> tuple[Workspace, str]:
    """Return a workspace and the id of its release, which has no trained models."""
    workspace = make_workspace(root)
    manifest = make_release(workspace.local_path("releases"), workspace, None, **config)
    return workspace, manifest.release_id


def logged(
    pages: int, slots: int, candidates: int, *, policy: Policy = LOGGER, seed: int = 0, same: bool = False
) -> pa.Table:
    """Return pages of users u0 to u9, drawn by a policy; an item is clicked where 1 of 4 hands says so.

    Args:
        pages: How many.
        slots: Items of each.
        candidates: Items to draw from.
        policy: Draws them.
        seed: Of everything.
        same: Whether all pages have the same candidates and scores.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(pages):
        if not number or not same:
            items = rng.permutation(ITEM_COUNT)[:candidates]
            scores = rng.normal(size=candidates).astype(np.float32)
        uniform = uniform_numbers(np.array([seed * 1_000_003 + number], dtype=np.uint64), slots)
        choice, propensity = policy.draw(scores[None], np.ones((1, candidates), dtype=bool), uniform)
        clicked = rng.random(slots) < 0.25
        rows.append(
            page(
                number,
                [ITEMS[item] for item in items[choice[0]]],
                user_id=f"u{number % USERS}",
                timestamp=5 * DAY + number,
                propensities=propensity[0].tolist(),
                candidates=[ITEMS[item] for item in items],
                candidate_scores=scores.tolist(),
                policy=policy.name,
                epsilon=policy.epsilon,
                temperature=policy.temperature,
                events=["click" if yes else "impression" for yes in clicked],
            )
        )
    return table(rows)
