"""A small shop in memory: 24 items, each with one successor, and users who go from item to item."""

import numpy as np
import pyarrow as pa

from features.schemas import CLICK, DISLIKE, EVENT_CODE, ITEMS, SEQUENCES, TRAIN
from models.inputs.items import item_columns
from models.recommend.catalogue import plain_catalogue
from models.recommend.requests import cases_from_table
from models.two_tower.config import TwoTowerConfig
from models.two_tower.inputs import ItemRows, positive_history, tower_columns
from models.two_tower.schema import make_schema
from models.two_tower.source import TowerSource, drop_short_histories

DAY = 86_400_000
ITEM_COUNT, USERS, PAGES = 24, 36, 6
COLOURS, KINDS = ("red", "blue", "green", "grey"), ("kite", "puzzle", "chair")
CONFIG = TwoTowerConfig(
    history_windows=(1, 3),
    min_history=0,
    min_count=1,
    item_dimensions=8,
    feature_dimensions=4,
    hidden=(16, 8),
    batch_size=32,
    uniform_negatives=6,
    frequency_buckets=64,
    ssl_batch_size=12,
)


def item_table() -> pa.Table:
    """Brands, prices and sizes are absent for some items."""
    rows = [
        {
            "item_id": f"i{number:02d}",
            "title": f"{COLOURS[number % 4]} {KINDS[number % 3]} no {number}",
            "category": ["toys", KINDS[number % 3]],
            "brand": f"brand {number % 5}" if number % 6 else None,
            "price": float(number) if number % 7 else None,
            "attributes": [("size", "SML"[number % 3])] if number % 2 else [],
        }
        for number in range(ITEM_COUNT)
    ]
    return pa.Table.from_pylist(rows, schema=ITEMS)


def sequence_row(user: int, split: str = TRAIN, pages: range = range(PAGES)) -> dict[str, object]:
    """User u's page p holds item u + 5 p; on the second page its neighbour, too, and a disliked one."""
    items, events, lengths = [], [], []
    for page in pages:
        number = (user + 5 * page) % ITEM_COUNT
        shown = [number, (number + 1) % ITEM_COUNT, (number + 2) % ITEM_COUNT] if page == 1 else [number]
        items += [f"i{shown_item:02d}" for shown_item in shown]
        events += [EVENT_CODE[CLICK], EVENT_CODE[CLICK], EVENT_CODE[DISLIKE]][: len(shown)]
        lengths.append(len(shown))
    times = [page * page * DAY + user for page in pages]
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


def make_cases(config=CONFIG, **options):
    """Return the training cases of the shop."""
    rows = pa.Table.from_pylist([sequence_row(user) for user in range(USERS)], schema=SEQUENCES)
    catalogue = plain_catalogue([f"i{number:02d}" for number in range(ITEM_COUNT)])
    cases = cases_from_table(rows, catalogue, TRAIN, max_history=config.max_history, **options)
    return catalogue, drop_short_histories(cases, config.min_history)


def make_shop(config=CONFIG):
    """Return catalogue, cases, schema and item inputs."""
    catalogue, cases = make_cases(config)
    columns = item_columns(item_table())
    trained = np.unique(np.concatenate([cases.relevant_items, positive_history(cases.requests)[0]]))
    schema = make_schema(columns, tower_columns(cases.requests), trained, config)
    return catalogue, cases, schema, ItemRows.of(schema, columns)


def make_source(config=CONFIG, *, seed=0, **share):
    _, cases, _, items = make_shop(config)
    return TowerSource(cases, items, config, seed=seed, **share)
