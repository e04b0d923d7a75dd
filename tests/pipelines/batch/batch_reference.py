"""The same results as the batch pipelines, in plain Python loops: slow and obvious."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

from batch_cases import DAY

from features.schemas import EVENT_CODE, POSITIVE_CODES, SPLITS
from kernels.hashing import reference_hash

NEVER = math.inf


def reference_pages(events: list[dict[str, Any]], *, gap_ms: int, cap: int, by_day: bool) -> list[dict[str, Any]]:
    """Pages sorted by user, time and items; a burst's `request_id` is None."""
    groups: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    by_user: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in sorted(events, key=_event_order):
        if row["request_id"] is None:
            by_user[row["user_id"]].append(row)
        else:
            groups[row["user_id"], row["request_id"]].append(row)
    for user, rows in by_user.items():
        burst, previous, pages_of_item = -1, None, {}
        for row in rows:
            time = row["timestamp"]
            if previous is None or (time // DAY != previous // DAY if by_day else time - previous > gap_ms):
                burst, pages_of_item = burst + 1, {}
            previous = time
            number = pages_of_item.setdefault(row["item_id"], len(pages_of_item) // cap)
            groups[user, (burst, number)].append(row)
    pages = [_page(user, key, rows) for (user, key), rows in groups.items()]
    return sorted(pages, key=lambda page: (page["user_id"], page["timestamp"], page["request_id"] or "", page["items"]))


def _event_order(row: dict[str, Any]) -> tuple[Any, ...]:
    position = NEVER if row["position"] is None else row["position"]
    tie = reference_hash(row["event_id"].encode())
    return row["user_id"], row["timestamp"], position, EVENT_CODE[row["event"]], row["item_id"], tie


def _page(user: str, key: Any, rows: list[dict[str, Any]]) -> dict[str, Any]:
    by_item: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_item[row["item_id"]].append(row)
    shown = sorted(by_item, key=lambda item: (_position(by_item[item]), by_item[item][0]["timestamp"], item))
    best = {item: max(by_item[item], key=lambda row: EVENT_CODE[row["event"]]) for item in shown}
    return {
        "request_id": key if isinstance(key, str) else None,
        "user_id": user,
        "timestamp": rows[0]["timestamp"],
        "policy": _first(rows, "policy"),
        "items": shown,
        "events": [best[item]["event"] for item in shown],
        "event_times": [best[item]["timestamp"] for item in shown],
        "values": _unless_empty([best[item]["value"] for item in shown]),
        "propensities": _unless_empty([_first(by_item[item], "propensity") for item in shown]),
    }


def _position(rows: list[dict[str, Any]]) -> float:
    return min((row["position"] for row in rows if row["position"] is not None), default=NEVER)


def _first(rows: list[dict[str, Any]], column: str) -> Any:
    return next((row[column] for row in rows if row[column] is not None), None)


def _unless_empty(values: list[Any]) -> list[Any] | None:
    return values if any(value is not None for value in values) else None


def reference_entries(
    pages: list[dict[str, Any]], *, protocol: str, validation_days: int, test_days: int
) -> list[tuple[dict[str, Any], str, list[tuple[str, int, int]]]]:
    """(page, split, visible (item, code, time) in response order), by user and time; empty pages left out."""
    last = max(page["timestamp"] for page in pages)
    test_cut = (last // DAY + 1 - test_days) * DAY
    validation_cut = test_cut - validation_days * DAY
    ends = {"train": validation_cut, "validation": test_cut, "test": NEVER} if protocol == "time" else {}
    by_user: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for page in sorted(pages, key=lambda page: (page["user_id"], page["timestamp"], page["request_id"])):
        by_user[page["user_id"]].append(page)
    found = []
    for rows in by_user.values():
        for number, page in enumerate(rows):
            if protocol == "time":
                split = SPLITS[(page["timestamp"] >= validation_cut) + (page["timestamp"] >= test_cut)]
            else:
                split = {1: "test", 2: "validation"}.get(len(rows) - number, "train") if len(rows) >= 3 else "train"
            entries = [
                (item, EVENT_CODE[kind], time)
                for item, kind, time in zip(page["items"], page["events"], page["event_times"], strict=True)
                if time < ends.get(split, NEVER)
            ]
            order = {3: 0, 2: 1, 1: 2, 0: 3, 4: 4}
            entries.sort(key=lambda entry: (order[entry[1]], entry[2]))
            if entries:
                found.append((page, split, entries))
    return found


def reference_sequences(entries: list[Any]) -> list[dict[str, Any]]:
    """Rows of the sequences table."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for page, split, visible in entries:
        row = rows.setdefault((page["user_id"], split), {"user_id": page["user_id"], "split": split, **_empty_row()})
        row["page_ids"].append(page["request_id"])
        row["page_times"].append(page["timestamp"])
        row["page_lengths"].append(len(visible))
        for column, values in zip(("items", "events", "times"), zip(*visible, strict=True), strict=True):
            row[column].extend(values)
    return [rows[key] for key in sorted(rows, key=lambda key: (key[0], SPLITS.index(key[1])))]


def _empty_row() -> dict[str, list[Any]]:
    return {name: [] for name in ("page_ids", "page_times", "page_lengths", "items", "events", "times")}


def reference_statistics(entries: list[Any], half_life_days: float) -> dict[str, tuple[Any, ...]]:
    """Item -> counts by kind, users, popularity, recent popularity, first and last time."""
    train = [(page["user_id"], *entry) for page, split, visible in entries if split == "train" for entry in visible]
    last = max((time for *_, time in train), default=0)
    found = {}
    for item in {item for _, item, _, _ in train}:
        rows = [row for row in train if row[1] == item]
        positive = [row for row in rows if row[2] in POSITIVE_CODES]
        counts = [sum(code == kind for _, _, code, _ in rows) for kind in range(5)]
        recent = sum(0.5 ** ((last - time) / DAY / half_life_days) for *_, time in positive)
        times = [time for *_, time in rows]
        found[item] = (*counts, len({row[0] for row in positive}), len(positive), recent, min(times), max(times))
    return found


def reference_transitions(entries: list[Any], max_distance: int, smoothing: float) -> dict[tuple[str, str], float]:
    """(a, b) -> (W[a, b] + W[b, a] / 2) / sqrt((n_a + smoothing) (n_b + smoothing))."""
    histories: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for page, split, visible in entries:
        if split == "train":
            histories[page["user_id"]] += [(time, item) for item, code, time in visible if code in POSITIVE_CODES]
    weights: dict[tuple[str, str], float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    for history in histories.values():
        items = [item for _, item in sorted(history, key=lambda entry: entry[0])]
        for later, item in enumerate(items):
            counts[item] += 1
            for distance in range(1, min(max_distance, later) + 1):
                earlier = items[later - distance]
                if earlier != item:
                    weights[earlier, item] += 1 / distance
                    weights[item, earlier] += 1 / distance / 2
    return {
        (a, b): weight / math.sqrt((counts[a] + smoothing) * (counts[b] + smoothing))
        for (a, b), weight in weights.items()
    }
