"""Cases drawn at random, and what a few of them look like with titles."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from features.semantic_ids import Catalogue
from features.workspace import Workspace
from models.recommend.interface import NO_ITEM
from models.recommend.requests import EvaluationCases
from pipelines.evaluation.comparison import Ranked
from pipelines.evaluation.report import SamplePage

Ints = npt.NDArray[np.int64]

CASES, HALLUCINATION, SAMPLES = range(3)
"""Named streams of random numbers."""
_SHOWN_TITLES = 10


def draw(size: int, most: int | None, seed: int, stream: int) -> Ints:
    """Return at most `most` distinct numbers below `size`, in order; all of them where there are no more.

    Example:
        >>> draw(3, 5, seed=0, stream=CASES).tolist()
        [0, 1, 2]
    """
    if most is None or size <= most:
        return np.arange(size)
    return np.sort(np.random.default_rng([seed, stream]).choice(size, most, replace=False))


def sample_pages(
    workspace: Workspace, ranked: Ranked, cases: EvaluationCases, catalogue: Catalogue, rows: Ints
) -> tuple[SamplePage, ...]:
    """Return the given cases with titles from `clean_items`."""
    titles = _titles(workspace, catalogue)
    chosen = cases.take(rows)
    pages = []
    for row, case in enumerate(rows):
        history = _row(chosen.requests.history_items, chosen.requests.history_offsets, row)
        relevant = _row(chosen.relevant_items, chosen.relevant_offsets, row)
        page = SamplePage(
            page_id=chosen.page_ids[row],
            history=tuple(titles[item] for item in history[-_SHOWN_TITLES:]),
            relevant=tuple(titles[item] for item in relevant),
            recommended={
                name: tuple(_marked(titles[item], item in relevant) for item in _shown(items_BK[case]))
                for name, items_BK in ranked.items()
            },
        )
        pages.append(page)
    return tuple(pages)


def _titles(workspace: Workspace, catalogue: Catalogue) -> list[str]:
    """Return a title per catalogue item, its id where the items table has none."""
    items = workspace.table("clean_items").read(["item_id", "title"])
    numbers = catalogue.numbers(items.column("item_id"))
    titles: list[str] = catalogue.item_ids.to_pylist()
    for number, title in zip(numbers, items.column("title").to_pylist(), strict=True):
        if number >= 0 and title:
            titles[number] = title
    return titles


def _marked(title: str, hit: bool) -> str:
    return f"* {title}" if hit else title


def _shown(items_K: Ints) -> Ints:
    first = items_K[:_SHOWN_TITLES]
    return first[first != NO_ITEM]


def _row(values: Ints, offsets: Ints, row: int) -> Ints:
    return values[offsets[row] : offsets[row + 1]]
