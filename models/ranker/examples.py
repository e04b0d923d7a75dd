"""Training rows of the ranker: what was on a page, what the user did with it, and what was known strictly before.

Where the log holds impressions, what was shown and left alone is a negative. Elsewhere negatives are drawn for every
positive, partly by popularity; how likely each draw was is kept, so that predictions can be put right.

Legend: `P` pages, `R` candidates of all pages, `N` items, `H` heads.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.schemas import CART, CLICK, DISLIKE, EVENT_CODE, IMPRESSION, NO_SEMANTIC_ID, PURCHASE
from features.semantic_ids import Catalogue
from features.workspace import Workspace
from kernels.jagged import offsets_from_lengths, row_numbers
from models.ranker.config import RankerConfig
from models.recommend.interface import RequestBatch
from models.recommend.requests import requests_from_sequences

Ints = npt.NDArray[np.int64]
_FIRST_EVENT = (EVENT_CODE[CLICK], EVENT_CODE[CART], EVENT_CODE[PURCHASE])
"""A head's label is 1 for this event and every stronger one but a dislike."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankerExamples:
    """Pages and their candidates, jagged by page.

    Attributes:
        requests: `P` requests at the moments of the pages.
        items_R: Catalogue numbers.
        offsets: `P + 1` offsets.
        label_RH: float32, 1 for a click (cart, purchase) or more; a dislike is none of them.
        rate_R: Log of the chance that the item is drawn as a negative of its page; 0 where the page was logged whole.
        drawn: Whether negatives are drawn.
        dropped: What of the split is no candidate, by reason.
    """

    requests: RequestBatch
    items_R: Ints
    offsets: Ints
    label_RH: npt.NDArray[np.float32]
    rate_R: npt.NDArray[np.float32]
    drawn: bool
    dropped: dict[str, int]

    def __len__(self) -> int:
        return len(self.requests)

    @property
    def times(self) -> Ints:
        """The moment of each candidate's page, milliseconds."""
        return np.repeat(self.requests.times_B, np.diff(self.offsets))

    @property
    def pages(self) -> Ints:
        """The page of each candidate."""
        return row_numbers(np.diff(self.offsets))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoggedItems:
    """What was on pages, whatever was done with it; unknown items are left out.

    Attributes:
        pages_E: Numbers of the pages, not decreasing.
        items_E: Catalogue numbers.
        events_E: Event codes.
        impressions: Whether the log of the split holds impressions at all.
        unknown: How many items of these pages the catalogue does not know.
    """

    pages_E: Ints
    items_E: Ints
    events_E: Ints
    impressions: bool
    unknown: int


def logged_items(workspace: Workspace, catalogue: Catalogue, split: str, page_ids: list[str]) -> LoggedItems:
    """Return what was on the given pages of a split, page by page."""
    columns = ["page_ids", "page_lengths", "items", "events"]
    table = workspace.table("sequences").read(columns, filter=pc.field("split") == split).combine_chunks()
    found_P = pc.index_in(pc.list_flatten(table["page_ids"]), value_set=pa.array(page_ids, pa.string()))
    page_P = np.asarray(pc.fill_null(found_P, -1), dtype=np.int64)
    page_X = page_P[row_numbers(np.asarray(pc.list_flatten(table["page_lengths"]), dtype=np.int64))]
    item_X = catalogue.numbers(pc.list_flatten(table["items"]))
    event_X = np.asarray(pc.list_flatten(table["events"]), dtype=np.int64)
    kept = np.flatnonzero((item_X >= 0) & (page_X >= 0))
    kept = kept[np.argsort(page_X[kept], kind="stable")]
    return LoggedItems(
        pages_E=page_X[kept],
        items_E=item_X[kept],
        events_E=event_X[kept],
        impressions=bool((event_X == EVENT_CODE[IMPRESSION]).any()),
        unknown=int(((item_X < 0) & (page_X >= 0)).sum()),
    )


def load_examples(
    workspace: Workspace,
    catalogue: Catalogue,
    split: str,
    config: RankerConfig,
    *,
    popularity_N: npt.NDArray[np.float64],
    rng: np.random.Generator,
    between: tuple[int | None, int | None] = (None, None),
) -> RankerExamples:
    """Return the pages of a split.

    Args:
        workspace: Holds `sequences` and the feature tables.
        catalogue: Numbers the items; others leave the examples.
        split: One of `SPLITS`.
        config: Length of histories, negatives.
        popularity_N: How often each item is liked, for negatives drawn by popularity.
        rng: Draws negatives where the log holds no impressions.
        between: First moment whose pages are taken, and the first whose pages are not any more; None: no limit.

    Raises:
        ValueError: The split has no page with a positive item of the catalogue, or none in these moments.
    """
    cases = requests_from_sequences(workspace, catalogue, split, max_history=config.max_history, every_page=True)
    if between != (None, None):
        cases = cases.take(_within(cases.requests.times_B, *between))
    logged = logged_items(workspace, catalogue, split, cases.page_ids)
    examples = _examples(cases.requests, logged.pages_E, logged.items_E, logged.events_E, logged.unknown)
    return examples if logged.impressions else with_negatives(examples, config, popularity_N, rng)


def _within(times_P: Ints, start: int | None, end: int | None) -> Ints:
    """Return the pages from `start` to before `end`."""
    first = -np.inf if start is None else start
    last = np.inf if end is None else end
    pages = np.flatnonzero((times_P >= first) & (times_P < last))
    if not len(pages):
        raise ValueError(f"expected pages from {first} to before {last} (milliseconds), got none of {len(times_P)}")
    return pages


def _examples(requests: RequestBatch, page_R: Ints, items_R: Ints, events_R: Ints, unknown: int) -> RankerExamples:
    lengths = np.bincount(page_R, minlength=len(requests))
    pages = np.flatnonzero(lengths)
    label_RH = (events_R[:, None] >= np.array(_FIRST_EVENT)) & (events_R != EVENT_CODE[DISLIKE])[:, None]
    return RankerExamples(
        requests=requests.take(pages),
        items_R=items_R,
        offsets=offsets_from_lengths(lengths[pages]),
        label_RH=label_RH.astype(np.float32),
        rate_R=np.zeros(len(items_R), np.float32),
        drawn=False,
        dropped={NO_SEMANTIC_ID: unknown},
    )


def with_negatives(
    examples: RankerExamples, config: RankerConfig, popularity_N: npt.NDArray[np.float64], rng: np.random.Generator
) -> RankerExamples:
    """Draw `negatives` items for each positive of a page, without those that are on it.

    An item is drawn with chance `q = popular_share * popularity / total + (1 - popular_share) / N`; one that is drawn
    twice counts once. A page's rate of an item is therefore `1 - (1 - q)^draws`.
    """
    items, total = len(popularity_N), popularity_N.sum()
    popular_N = popularity_N / total if total > 0 else np.full(items, 1 / items)
    chance_N = config.popular_share * popular_N + (1 - config.popular_share) / items
    draws_P = config.negatives * np.bincount(
        examples.pages, weights=examples.label_RH[:, 0], minlength=len(examples)
    ).astype(np.int64)
    page_D = row_numbers(draws_P)
    own = examples.pages * items + examples.items_R
    drawn = np.unique(page_D * items + rng.choice(items, len(page_D), p=chance_N))
    drawn = drawn[~np.isin(drawn, own)]
    page_R = np.concatenate([examples.pages, drawn // items])
    items_R = np.concatenate([examples.items_R, drawn % items])
    label_RH = np.concatenate([examples.label_RH, np.zeros((len(drawn), examples.label_RH.shape[1]), np.float32)])
    order = np.argsort(page_R, kind="stable")
    page_R, items_R = page_R[order], items_R[order]
    # a page without a positive, of dislikes alone, has no draws: nothing says how it was chosen
    rate_R = np.log(-np.expm1(np.maximum(draws_P[page_R], 1) * np.log1p(-chance_N[items_R])))
    return dataclasses.replace(
        examples,
        items_R=items_R,
        offsets=offsets_from_lengths(np.bincount(page_R, minlength=len(examples))),
        label_RH=label_RH[order],
        rate_R=rate_R.astype(np.float32),
        drawn=True,
    )
