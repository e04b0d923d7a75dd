"""Golden requests: recorded answers that a release must give again wherever it is loaded.

The rule of comparison: for every request, each retriever's list must come back with the recorded scores (within
`TOLERANCE`), and an item may stand at another place only where its recorded score is a near-tie (within `TOLERANCE`)
with the one recorded for that place. Where all lists come back in the recorded order, the page without exploration must
be the recorded page, item for item.

Releases are copied to registries and other machines: what they hold must say nothing of anybody (`nobodys`).
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np

from features.columns import Columns, IdColumn
from features.folds import HOUR_MS
from features.semantic_ids import Catalogue
from kernels.jagged import offsets_from_lengths, row_numbers
from models.recommend.interface import NO_ITEM, RequestBatch
from models.recommend.recommender import Recommender

COUNT = 50
"""Requests recorded."""
DEPTH = 20
"""Candidates recorded per retriever."""
TOLERANCE = 1e-3
"""Largest difference of two scores that count as equal, absolute below 1 and relative above: float32 sums of another
processor or number of threads stay far below it."""


def nobodys(requests: RequestBatch, seed: int = 0) -> RequestBatch:
    """Return requests that nobody made, each like one of these in size and hour, with what they hold dealt anew.

    History entries change places among all requests, so do the gaps between entry and request, and every column by
    itself; names are numbers and moments full hours. What comes out asks the same of a model as real requests do.

    Example:
        >>> real = RequestBatch(
        ...     user_ids=["ann"], times_B=np.array([7_200_123]), history_items=np.array([4]),
        ...     history_events=np.array([1], np.int8), history_times=np.array([7_200_023]),
        ...     history_offsets=np.array([0, 1]), excluded_items=np.array([], np.int64),
        ...     excluded_offsets=np.array([0, 0]),
        ... )
        >>> made = nobodys(real)
        >>> made.user_ids, made.times_B.tolist(), made.history_times.tolist()
        (['golden request 0'], [7200000], [7199900])
    """
    rng = np.random.default_rng(seed)
    entries = rng.permutation(len(requests.history_items))
    rows = row_numbers(np.diff(requests.history_offsets))
    gaps = rng.permutation(requests.times_B[rows] - requests.history_times)
    times_B = requests.times_B // HOUR_MS * HOUR_MS
    oldest_first = np.lexsort((-gaps, rows))
    return dataclasses.replace(
        requests,
        user_ids=[f"golden request {row}" for row in range(len(requests))],
        times_B=times_B,
        history_items=requests.history_items[entries],
        history_events=requests.history_events[entries],
        history_times=times_B[rows] - gaps[oldest_first],
        columns=None if requests.columns is None else _dealt(requests.columns, rng),
    )


def _dealt(columns: Columns, rng: np.random.Generator) -> Columns:
    ids = {name: column.take(rng.permutation(columns.rows)) for name, column in columns.ids.items()}
    numbers = {name: rng.permutation(values) for name, values in columns.numbers.items()}
    return dataclasses.replace(columns, ids=ids, numbers=numbers)


def record(recommender: Recommender, requests: RequestBatch) -> dict[str, Any]:
    """Return requests and answers as a JSON document."""
    return {
        "requests": [_request(recommender.catalogue, requests, row) for row in range(len(requests))],
        **_answers(recommender, requests),
    }


def check(recommender: Recommender, document: dict[str, Any]) -> None:
    """Answer the recorded requests again and compare.

    Raises:
        ValueError: An answer differs by more than near-ties; names the first ones.
    """
    found = _answers(recommender, _batch(recommender.catalogue, document["requests"]))
    mistakes = [
        f"{request['user_id']!r}, {mistake}"
        for row, request in enumerate(document["requests"])
        for mistake in _mistakes(
            document["lists"][row], found["lists"][row], document["pages"][row], found["pages"][row]
        )
    ]
    if mistakes:
        raise ValueError(
            f"{len(mistakes)} golden answers came out different, so this is not the release that was written: "
            + "; ".join(mistakes[:3])
        )


def _answers(recommender: Recommender, requests: RequestBatch) -> dict[str, Any]:
    lists = recommender.candidates(requests, DEPTH)
    pages = recommender.pages(requests)
    return {
        "lists": [
            {
                entry.source: {
                    "items": recommender.catalogue.ids(items_K[items_K != NO_ITEM]),
                    "scores": [round(float(score), 6) for score in scores_K[items_K != NO_ITEM]],
                }
                for entry in lists
                for items_K, scores_K in [(entry.items_BK[row], entry.scores_BK[row])]
            }
            for row in range(len(requests))
        ],
        "pages": [page.items for page in pages],
    }


def _mistakes(
    expected: dict[str, Any], found: dict[str, Any], expected_page: list[str], found_page: list[str]
) -> list[str]:
    """Return what is wrong with the answers to one request."""
    differences = {name: _difference(recorded, found.get(name)) for name, recorded in expected.items()}
    mistakes = [f"{name}: {difference}" for name, difference in differences.items() if difference]
    if mistakes or found_page == expected_page:
        return mistakes
    same_lists = all(found[name]["items"] == recorded["items"] for name, recorded in expected.items())
    return [f"page: expected {expected_page}, got {found_page}"] if same_lists else []


def _difference(expected: dict[str, list[Any]], found: dict[str, list[Any]] | None) -> str | None:
    """Return what is wrong with one retriever's list, None where it is right up to near-ties."""
    if found is None:
        return "expected an answer, this retriever gave none"
    if len(found["items"]) != len(expected["items"]):
        return f"expected {len(expected['items'])} items, got {len(found['items'])}"
    recorded = dict(zip(expected["items"], expected["scores"], strict=True))
    for place, (item, score) in enumerate(zip(found["items"], found["scores"], strict=True)):
        wanted = expected["scores"][place]
        if not _near(score, wanted):
            return f"place {place}: expected score {wanted}, got {score}"
        # an item from below the recorded depth has no recorded score: its own one stands in
        if not _near(recorded.get(item, score), wanted):
            return f"place {place}: expected item {expected['items'][place]!r}, got {item!r}"
    return None


def _near(first: float, second: float) -> bool:
    return abs(first - second) <= TOLERANCE * max(1.0, abs(second))


def _request(catalogue: Catalogue, requests: RequestBatch, row: int) -> dict[str, Any]:
    history = slice(requests.history_offsets[row], requests.history_offsets[row + 1])
    return {
        "user_id": requests.user_ids[row],
        "time": int(requests.times_B[row]),
        "items": catalogue.ids(requests.history_items[history]),
        "events": requests.history_events[history].tolist(),
        "times": requests.history_times[history].tolist(),
        **_columns(requests.columns, row),
    }


def _columns(columns: Columns | None, row: int) -> dict[str, Any]:
    """Return one request's columns as a JSON object; hashes are whole numbers of up to 64 bits."""
    if columns is None:
        return {}
    own = columns.take(np.array([row]))
    ids = {
        name: {
            "hashes": column.hashes.tolist(),
            "weights": None if column.weights is None else column.weights.tolist(),
        }
        for name, column in own.ids.items()
    }
    numbers = {name: None if np.isnan(value[0]) else float(value[0]) for name, value in own.numbers.items()}
    return {"columns": {"ids": ids, "numbers": numbers}}


def _batch(catalogue: Catalogue, documents: list[dict[str, Any]]) -> RequestBatch:
    def joined(name: str) -> list[Any]:
        return [value for document in documents for value in document[name]]

    return RequestBatch(
        user_ids=[document["user_id"] for document in documents],
        times_B=np.array([document["time"] for document in documents], dtype=np.int64),
        history_items=catalogue.numbers(joined("items")),
        history_events=np.array(joined("events"), dtype=np.int8),
        history_times=np.array(joined("times"), dtype=np.int64),
        history_offsets=offsets_from_lengths(np.array([len(document["items"]) for document in documents])),
        excluded_items=np.zeros(0, dtype=np.int64),
        excluded_offsets=np.zeros(len(documents) + 1, dtype=np.int64),
        columns=_joined_columns([document["columns"] for document in documents if "columns" in document]),
    )


def _joined_columns(documents: list[dict[str, Any]]) -> Columns | None:
    """Read what `_columns` wrote for all requests."""
    if not documents:
        return None
    ids = {name: _joined_ids([document["ids"][name] for document in documents]) for name in documents[0]["ids"]}
    numbers = {
        name: np.array([document["numbers"][name] for document in documents], dtype=np.float32)
        for name in documents[0]["numbers"]
    }
    return Columns(rows=len(documents), ids=ids, numbers=numbers)


def _joined_ids(rows: list[dict[str, Any]]) -> IdColumn:
    weighted = any(row["weights"] for row in rows)
    return IdColumn(
        hashes=np.array([value for row in rows for value in row["hashes"]], dtype=np.uint64),
        offsets=offsets_from_lengths(np.array([len(row["hashes"]) for row in rows])),
        weights=np.array([value for row in rows for value in row["weights"]], np.float32) if weighted else None,
    )


def to_bytes(document: dict[str, Any]) -> bytes:
    """Return the document as JSON."""
    return json.dumps(document, indent=1, sort_keys=True).encode()
