"""A small shop with planted transitions, and a training run on it.

As a program: `genrec_worker.py WORKSPACE [CHECKPOINT]`; a checkpoint's weights are held to the end.
"""

import dataclasses
import functools
import sys
from pathlib import Path

import pyarrow as pa

from features.schemas import CLICK, EVENT_CODE, ITEM_STATISTICS, ITEMS, SEQUENCES, TRAIN, VALIDATION
from features.workspace import Workspace
from models.genrec.config import GenRecConfig
from models.tokenizer.build import build_bundle
from models.tokenizer.config import SemanticIdConfig
from models.training.config import TrainConfig
from models.training.genrec import train_genrec

DAY = 86_400_000
ITEM_COUNT, USERS, NEW_USERS = 12, 24, 6
SEMANTIC_IDS = SemanticIdConfig(
    levels=2,
    codes=4,
    text_dimensions=4,
    collaborative_dimensions=0,
    max_collision_rate=1.0,
    min_code_share=0.0,
    min_perplexity=0.0,
)
MODEL = GenRecConfig(layers=1, width=16, heads=2, kv_heads=1, ffn_width=32, dropout=0.1, batch_tokens=64)
TRAIN_CONFIG = TrainConfig(
    epochs=12,
    learning_rate=0.02,
    precision="float32",
    ema_decay=0.9,
    log_every_steps=5,
    checkpoint_every_steps=7,
    evaluate_every_epochs=4,
    threads=1,
)


def make_workspace(root: Path, validation: bool = True) -> Workspace:
    """User u's page p holds item (u + 5 p) % 12: each item has one successor.

    New users have one page, hence no history; their rows fill a batch of their own.
    """
    workspace = Workspace(root)
    ids = [f"i{n:02d}" for n in range(ITEM_COUNT)]
    titles = [
        f"{('kite', 'puzzle', 'chair')[n % 3]} {('red', 'blue', 'green', 'grey')[n // 3]}" for n in range(ITEM_COUNT)
    ]
    items = [{"item_id": ids[n], "title": titles[n], "category": [titles[n].split()[0]]} for n in range(ITEM_COUNT)]
    commit(workspace, "clean_items", pa.Table.from_pylist(items, schema=ITEMS))
    splits = [(TRAIN, range(6)), (VALIDATION, range(6, 7))][: 1 + validation]
    rows = [row(split, user, pages) for split, pages in splits for user in range(USERS)]
    rows += [row(TRAIN, user, range(1)) for user in range(USERS, USERS + NEW_USERS)]
    commit(workspace, "sequences", pa.Table.from_pylist(rows, schema=SEQUENCES))
    counts = {name: [0] * ITEM_COUNT for name in ITEM_STATISTICS.names} | {"item_id": ids}
    commit(workspace, "item_statistics", pa.table(counts))
    build_bundle(workspace, SEMANTIC_IDS, seed=0)
    return workspace


def row(split: str, user: int, pages: range) -> dict[str, object]:
    times = [page * DAY + user for page in pages]
    return {
        "user_id": f"u{user:02d}",
        "split": split,
        "page_ids": [f"u{user}-{page}" for page in pages],
        "page_times": times,
        "page_lengths": [1] * len(pages),
        "items": [f"i{(user + 5 * page) % ITEM_COUNT:02d}" for page in pages],
        "events": [EVENT_CODE[CLICK]] * len(pages),
        "times": times,
    }


def commit(workspace: Workspace, name: str, rows: pa.Table) -> None:
    table = workspace.table(name)
    table.commit([table.write_part(rows, shard=0)])


def run(workspace: Path, model: GenRecConfig = MODEL) -> None:
    """Train, and print at once what is told: the process may be ended from outside."""
    tell = functools.partial(print, flush=True)
    training = train_genrec(Workspace(workspace), model, TRAIN_CONFIG, seed=3, track=False, progress=tell)
    tell("\n".join(training.lines()))


if __name__ == "__main__":
    held = {"pretrained": sys.argv[2], "hold_pretrained": 0.999} if len(sys.argv) > 2 else {}
    run(Path(sys.argv[1]), dataclasses.replace(MODEL, **held))
