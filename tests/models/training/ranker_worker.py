"""A shop whose users each like one category, and the ranker's training; as a program: `ranker_worker.py WORKSPACE`."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

from features.definitions import ITEM_FEATURES, PAGE_FEATURES
from features.schemas import (
    CLICK,
    EVENT_CODE,
    IMPRESSION,
    ITEM_STATISTICS,
    ITEMS,
    PURCHASE,
    SEQUENCES,
    TRAIN,
    VALIDATION,
)
from features.workspace import Workspace
from models.ranker.config import RankerConfig
from models.training.config import TrainConfig
from models.training.ranker import train_ranker

DAY = 86_400_000
ITEM_COUNT, CATEGORIES, USERS, TRAIN_PAGES, PAGE_ITEMS = 24, 4, 40, 8, 6
MODEL = RankerConfig(
    rows=500, dimensions=4, exact_limit=8, deep_widths=(16,), cross_layers=1, attention_width=8, batch_size=16
)
TRAIN_CONFIG = TrainConfig(
    epochs=6,
    learning_rate=0.01,
    precision="float32",
    log_every_steps=5,
    checkpoint_every_steps=12,
    monitor="auc",
    threads=1,
)


def make_workspace(root: Path, *, impressions: bool = True) -> Workspace:
    """User u likes category u % 4: six of ten items of it are clicked, half of these bought; of others one in fifty."""
    workspace, rng = Workspace(root), np.random.default_rng(5)
    items = [
        {"item_id": f"i{n:02d}", "title": f"thing {n}", "category": ["all", f"c{n % CATEGORIES}"], "price": 1.0 + n}
        for n in range(ITEM_COUNT)
    ]
    commit(workspace, "clean_items", pa.Table.from_pylist(items, schema=ITEMS))
    splits = [(TRAIN, range(TRAIN_PAGES)), (VALIDATION, range(TRAIN_PAGES, TRAIN_PAGES + 3))]
    rows = [row(split, user, pages, rng, impressions) for split, pages in splits for user in range(USERS)]
    commit(workspace, "sequences", pa.Table.from_pylist(rows, schema=SEQUENCES))
    ids = [item["item_id"] for item in items]
    liked = [event for row in rows if row["split"] == TRAIN for event in zip(row["items"], row["events"], strict=True)]
    popularity = [sum(item == one and code > 0 for item, code in liked) for one in ids]
    counts = {name: [0] * ITEM_COUNT for name in ITEM_STATISTICS.names} | {"item_id": ids, "popularity": popularity}
    commit(workspace, "item_statistics", pa.table(counts))
    for name in (PAGE_FEATURES, ITEM_FEATURES):
        commit(workspace, name, workspace.table(name).schema.empty_table())
    return workspace


def row(split: str, user: int, pages: range, rng: np.random.Generator, impressions: bool) -> dict[str, object]:
    items, events, lengths = [], [], []
    for _ in pages:
        shown = rng.choice(ITEM_COUNT, PAGE_ITEMS, replace=False)
        clicked = rng.random(PAGE_ITEMS) < np.where(shown % CATEGORIES == user % CATEGORIES, 0.6, 0.02)
        kinds = np.where(clicked, np.where(rng.random(PAGE_ITEMS) < 0.5, PURCHASE, CLICK), IMPRESSION)
        kept = np.flatnonzero(clicked | impressions)
        lengths.append(len(kept))
        items += [f"i{item:02d}" for item in shown[kept]]
        events += [EVENT_CODE[kind] for kind in kinds[kept]]
    times = [page * DAY + user for page in pages]
    return {
        "user_id": f"u{user:02d}",
        "split": split,
        "page_ids": [f"u{user}-{page}" for page in pages],
        "page_times": times,
        "page_lengths": lengths,
        "items": items,
        "events": events,
        "times": np.repeat(times, lengths).tolist(),
    }


def commit(workspace: Workspace, name: str, rows: pa.Table) -> None:
    table = workspace.table(name)
    table.commit([table.write_part(rows, shard=0)])


if __name__ == "__main__":
    half = dataclasses.replace(MODEL, batch_size=MODEL.batch_size // 2)
    training = train_ranker(Workspace(sys.argv[1]), half, TRAIN_CONFIG, seed=3, track=False, progress=print)
    print("\n".join(training.lines()))
