"""The simulated marketplace as tables of the contract."""

from __future__ import annotations

import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.schemas import (
    CART,
    CLICK,
    EVENTS,
    IMPRESSION,
    ITEMS,
    PURCHASE,
    SERVED_PAGES,
    STRING_MAP,
    TIMESTAMP,
    USERS,
)
from kernels.jagged import offsets_from_lengths
from pipelines.simulator.behaviour import NO_ITEM
from pipelines.simulator.config import SimulateConfig
from pipelines.simulator.day import Pages
from pipelines.simulator.words import BRANDS, BUDGETS, COLOURS, DEVICES, HOUR_BUCKETS, ROOT, THEMES, TREE
from pipelines.simulator.world import DAY_MS, LEAF_DEPARTMENT, Ints, World, part_of_day

POLICY = "simulator"
STAGES = (IMPRESSION, CLICK, CART, PURCHASE)
"""Event kinds in the order in which a person passes them."""

_LEAVES = [leaf for leaves in TREE.values() for leaf in leaves]
_DEPARTMENTS = list(TREE)
_THEME_WORDS = list(THEMES.values())


def start_ms(config: SimulateConfig) -> int:
    """Return the first day's midnight in milliseconds since 1970."""
    midnight = datetime.datetime.fromisoformat(config.start).replace(tzinfo=datetime.UTC)
    return round(midnight.timestamp() * 1000)


def date_of(config: SimulateConfig, day: int) -> str:
    """Return the date `YYYY-MM-DD` of a simulated day."""
    return (datetime.date.fromisoformat(config.start) + datetime.timedelta(days=day)).isoformat()


def item_ids(world: World) -> list[str]:
    """Return the id of each item number."""
    return [f"i{number:06d}" for number in range(len(world.items))]


def user_ids(world: World) -> list[str]:
    """Return the id of each user number."""
    return [f"u{number:06d}" for number in range(len(world.users))]


def items_table(world: World) -> pa.Table:
    """Return the `items` table; `available` tells whether the item is still there after the last day."""
    items, config = world.items, world.config
    texts = [_texts(*row) for row in zip(items.leaf_N, items.theme_N, items.brand_N, items.wording_NW, strict=True)]
    columns = {
        "item_id": item_ids(world),
        "title": [title for title, _, _ in texts],
        "description": [description for _, description, _ in texts],
        "category": [[ROOT, _DEPARTMENTS[LEAF_DEPARTMENT[leaf]], _LEAVES[leaf]] for leaf in items.leaf_N],
        "brand": [BRANDS[brand] for brand in items.brand_N],
        "price": items.price_N,
        "available_from": pa.array(start_ms(config) + items.first_day_N * DAY_MS).cast(TIMESTAMP),
        "available": items.gone_day_N >= config.days,
        "attributes": pa.array([[("colour", colour)] for _, _, colour in texts], STRING_MAP),
    }
    return pa.table(columns).cast(ITEMS)


def _texts(leaf: int, theme: int, brand: int, wording: Ints) -> tuple[str, str, str]:
    words, name, colour = _THEME_WORDS[theme], _LEAVES[leaf], COLOURS[wording[0] % len(COLOURS)]
    offset, step = wording[1] % len(words), 1 + wording[2] % 2
    first, second, third = (words[(offset + n * step) % len(words)] for n in range(3))
    title = f"{BRANDS[brand]} {first} {second} {name} {colour}"
    department = _DEPARTMENTS[LEAF_DEPARTMENT[leaf]]
    description = f"A {third} {name} for {department}, {first} style, by {BRANDS[brand]}. Model {wording[4] % 1000}."
    return title, description, colour


def users_table(world: World) -> pa.Table:
    """Return the `users` table: a budget band, a favourite department (often wrong) and the usual device."""
    users = world.users
    budget = np.digitize(np.log(users.sensitivity_U) + 0.5 * users.noise_UA[:, 0], [-0.4, 0.4])
    department = LEAF_DEPARTMENT[users.first_need_U]
    department = np.where(np.abs(users.noise_UA[:, 1]) < 1.0, department, (department + 1) % len(_DEPARTMENTS))
    device = (users.device_UT.mean(axis=1) > 0.5).astype(np.int64)
    attributes = [
        [("budget", BUDGETS[b]), ("favourite_department", _DEPARTMENTS[f]), ("device", DEVICES[d])]
        for b, f, d in zip(budget, department, device, strict=True)
    ]
    return pa.table({"user_id": user_ids(world), "attributes": pa.array(attributes, STRING_MAP)}).cast(USERS)


def events_table(world: World, pages: Pages, day: int) -> pa.Table:
    """Return the `events` of one day's pages in order of time: one row per impression, click, cart and purchase."""
    width = pages.items_RP.shape[1]
    stages, items = pages.stages_RP.ravel(), pages.items_RP.ravel()
    delays = pages.delays_RPE.reshape(len(items), 3)
    shown = [np.flatnonzero(stages >= stage) for stage in range(len(STAGES))]
    cell = np.concatenate(shown)
    kind = np.repeat(np.arange(len(STAGES)), [len(cells) for cells in shown])
    delay = np.where(kind > 0, delays[cell, np.maximum(kind - 1, 0)], 0)
    time = pages.times_R[cell // width] + delay
    order = np.lexsort((kind, cell, time))
    cell, kind, time = cell[order], kind[order], time[order]
    row = cell // width
    value = pa.array(world.items.price_N[items[cell]], mask=kind != STAGES.index(PURCHASE))
    columns = {
        "event_id": _numbered(f"e{day:03d}", np.arange(len(cell))),
        "user_id": pa.array(user_ids(world)).take(pages.users_R[row]),
        "item_id": pa.array(item_ids(world)).take(items[cell]),
        "event": pa.array(STAGES).take(kind),
        "timestamp": pa.array(start_ms(world.config) + time).cast(TIMESTAMP),
        "request_id": _numbered(f"r{day:03d}", row),
        "session_id": _numbered(f"s{day:03d}", pages.visits_R[row]),
        "position": pa.array((cell % width).astype(np.int32)),
        "propensity": pages.propensities_RP.ravel()[cell],
        "policy": pa.array([POLICY]).take(np.zeros(len(cell), dtype=np.int64)),
        "value": value,
        "context": _contexts(world, pages, row),
    }
    return pa.table(columns, schema=EVENTS)


def served_pages_table(world: World, pages: Pages, day: int) -> pa.Table:
    """Return the `served_pages` of one day in order of time: what the logging policy knew when it made each page."""
    size, width = pages.items_RP.shape
    order = np.argsort(pages.times_R, kind="stable")
    ids, items_RP = pa.array(item_ids(world)), pages.items_RP[order]
    candidates_RC, scores_RC = pages.candidates_RC[order], pages.scores_RC[order]
    there_RC = candidates_RC != NO_ITEM
    offsets = pa.array(offsets_from_lengths(there_RC.sum(axis=1)), pa.int32())
    slots = pa.array(np.arange(0, size * width + 1, width), pa.int32())
    place_RP = np.argmax(candidates_RC[:, None, :] == items_RP[:, :, None], axis=2)
    known = {
        "request_id": _numbered(f"r{day:03d}", order),
        "user_id": pa.array(user_ids(world)).take(pages.users_R[order]),
        "timestamp": pa.array(start_ms(world.config) + pages.times_R[order]).cast(TIMESTAMP),
        "policy": pa.array([POLICY]).take(np.zeros(size, dtype=np.int64)),
        "items": pa.ListArray.from_arrays(slots, ids.take(items_RP.ravel())),
        "scores": pa.ListArray.from_arrays(slots, pa.array(np.take_along_axis(scores_RC, place_RP, axis=1).ravel())),
        "propensities": pa.ListArray.from_arrays(slots, pa.array(pages.propensities_RP[order].ravel())),
        "candidates": pa.ListArray.from_arrays(offsets, ids.take(candidates_RC[there_RC])),
        "candidate_scores": pa.ListArray.from_arrays(offsets, pa.array(scores_RC[there_RC])),
        "epsilon": pa.array(np.full(size, world.config.epsilon)),
        "temperature": pa.array(np.full(size, world.config.temperature_on(day))),
        "context": _contexts(world, pages, order),
    }
    return pa.table([known.get(field.name, pa.nulls(size, field.type)) for field in SERVED_PAGES], schema=SERVED_PAGES)


def _numbered(prefix: str, numbers: Ints) -> pa.Array:
    return pc.binary_join_element_wise(prefix, pc.cast(pa.array(numbers), pa.string()), "-")


def _contexts(world: World, pages: Pages, row: Ints) -> pa.Array:
    part_R = part_of_day(pages.times_R)
    device_R = world.users.device_UT[pages.users_R, part_R]
    names = pa.array([*HOUR_BUCKETS, *DEVICES])
    values = np.stack([part_R[row], len(HOUR_BUCKETS) + device_R[row]], axis=1).ravel()
    keys = pa.array(["hour", "device"]).take(np.tile([0, 1], len(row)))
    offsets = np.arange(0, 2 * len(row) + 1, 2, dtype=np.int32)
    return pa.MapArray.from_arrays(offsets, keys, names.take(values))
