"""A workspace with the tables that a back-fill reads."""

from __future__ import annotations

import pyarrow as pa

from features.schemas import CLICK, DISLIKE, EVENT_CODE, IMPRESSION, PURCHASE, TEST, TRAIN
from features.workspace import Workspace

SHOWN, C, P, D = (EVENT_CODE[kind] for kind in (IMPRESSION, CLICK, PURCHASE, DISLIKE))


def sequence(user: str, split: str, pages: list[list[tuple[str, int, int]]]) -> dict:
    entries = [entry for page in pages for entry in page]
    return {
        "user_id": user,
        "split": split,
        "page_ids": [f"{user}{split}{number}" for number in range(len(pages))],
        "page_times": [min(entry[2] for entry in page) for page in pages],
        "page_lengths": [len(page) for page in pages],
        "items": [entry[0] for entry in entries],
        "events": [entry[1] for entry in entries],
        "times": [entry[2] for entry in entries],
    }


def write(workspace: Workspace, name: str, rows: list[dict]) -> None:
    table = workspace.table(name)
    table.commit([table.write_part(pa.Table.from_pylist(rows, table.schema), shard=0)])


def small_workspace(folder) -> Workspace:
    """Ann with four events on four pages, eve with one, bob who was only shown something; two items."""
    workspace = Workspace(folder)
    rows = [
        sequence("ann", TEST, [[("i9", C, 90)]]),
        sequence("bob", TRAIN, [[("i1", SHOWN, 5)]]),
        sequence("ann", TRAIN, [[("i2", P, 20), ("i1", C, 10), ("i3", SHOWN, 11)], [("i4", C, 30), ("i5", D, 30)]]),
        sequence("eve", TRAIN, [[("i1", C, 7)]]),
    ]
    write(workspace, "sequences", rows)
    items = [
        {"item_id": "i1", "title": "one", "category": ["a", "b"], "brand": "x", "price": 1.5, "available_from": 9},
        {"item_id": "i2", "title": "two", "available": False},
    ]
    write(workspace, "clean_items", items)
    return workspace
