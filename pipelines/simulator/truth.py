"""What pages are really worth: the oracle's expected reward of the page maker's orders, for requests of a split.

Logged clicks favour what the logging policy showed; in a simulated marketplace the bias can be seen, because the truth
is known.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from features.semantic_ids import Catalogue
from features.workspace import Workspace
from models.recommend.fresh import with_past_items
from models.recommend.interface import NO_ITEM, RequestBatch
from models.recommend.recommender import FUSION, PAGE, Recommender
from models.recommend.requests import requests_from_sequences
from pipelines.simulator.oracle import ORACLE_FILE, Kind, Oracle

KINDS: tuple[Kind, ...] = ("click", "purchase")
PAGE_ITEMS = 10
CASES = 500
MAX_HISTORY = 50

Interval = tuple[float, float]
"""A mean and the half-width of its 95 % interval."""


def true_rewards(
    workspace: Workspace, recommender: Recommender, split: str, seed: int
) -> dict[str, dict[Kind, Interval]]:
    """Return what a page of ten would earn per request: whole page maker, without its ranker, each retriever alone.

    Args:
        workspace: Of a simulation; holds the oracle's secret state.
        recommender: What makes the pages, without exploration.
        split: Whose requests are answered, at most 500 drawn by the seed.
        seed: Of the sample.

    Returns:
        Name -> kind of reward -> mean and half-width of its interval over requests.
    """
    oracle = Oracle.load(workspace.local_path(*ORACLE_FILE))
    cases = requests_from_sequences(workspace, recommender.catalogue, split, max_history=MAX_HISTORY)
    rng = np.random.default_rng(seed)
    requests = cases.take(np.sort(rng.choice(len(cases), min(CASES, len(cases)), replace=False))).requests
    page, fusion = with_past_items(recommender, workspace).orders(requests, PAGE_ITEMS)
    lists = {PAGE: page.items_BK, FUSION: fusion.items_BK}
    lists |= {name: part.retrieve(requests, PAGE_ITEMS).items_BK for name, part in recommender.retrievers.items()}
    found: dict[str, dict[Kind, Interval]] = {}
    for name, items_BK in lists.items():
        found[name] = {
            kind: _interval(expected_rewards(oracle, recommender.catalogue, requests, items_BK, kind)) for kind in KINDS
        }
    return found


def expected_rewards(
    oracle: Oracle, catalogue: Catalogue, requests: RequestBatch, items_BK: npt.NDArray[np.int64], kind: Kind
) -> npt.NDArray[np.float64]:
    """Return what each request's items, shown as a page in this order, would truly earn, `[B]`."""
    pages = [catalogue.ids(items_K[items_K != NO_ITEM]) for items_K in items_BK]
    return oracle.expected_reward(requests.user_ids, requests.times_B, pages, kind=kind)


def _interval(values_B: np.ndarray) -> Interval:
    return float(values_B.mean()), float(1.96 * values_B.std(ddof=1) / np.sqrt(len(values_B)))
