"""Pages for users at one moment, as rows of the schema `features.schemas.PAGES`.

Legend: `B` users answered together.
"""

from __future__ import annotations

import dataclasses
import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.schemas import PAGES
from features.store.base import KnownUsers
from features.store.filling import item_facts, newest_item_features
from features.workspace import Workspace
from models.recommend.deltas import CatalogueState, caught_up
from models.recommend.known import request_of_users
from models.recommend.policy import Policy
from models.recommend.recommender import Page, Recommender, request_seeds
from models.recommend.release import load_release


@dataclasses.dataclass(frozen=True, kw_only=True)
class PagesJob:
    """What every worker needs to know; small and picklable.

    Attributes:
        release: Folder of the release.
        release_id: Its id.
        delta: Number of its last catalogue delta, 0 for none.
        catalogue_version: Names its items with this delta.
        uri: The workspace, with newer facts and features of items.
        items_version: Names these; a worker that has met another version loads again.
        time: The moment of all requests, milliseconds since 1970 UTC.
        page_size: Items per page, None for the release's own.
        explore: See `RecommendJobConfig`.
        history_length: Newest events per user.
        users_per_batch: Users answered together.
    """

    release: Path
    release_id: str
    delta: int
    catalogue_version: str
    uri: str
    items_version: str
    time: int
    page_size: int | None
    explore: bool
    history_length: int
    users_per_batch: int


def request_id(release_id: str, user_id: str, time: int) -> str:
    """Return the id of the page that a release makes for a user at a moment.

    Example:
        >>> request_id("0123456789ab", "ann", 0)
        'f9730f3a74c080c1c2dfb6ec7091b467'
    """
    return hashlib.sha256(f"{release_id}\n{time}\n{user_id}".encode()).hexdigest()[:32]


def make_pages(job: PagesJob, users: KnownUsers) -> pa.Table:
    """Return the pages of users, a row each."""
    recommender = page_maker(job.release, job.delta, job.uri, job.items_version)
    requests = request_of_users(users, recommender.catalogue, np.full(len(users), job.time, dtype=np.int64))
    ids = [request_id(job.release_id, user, job.time) for user in requests.user_ids]
    pages = recommender.pages(requests, job.page_size, request_seeds(ids) if job.explore else None)
    policy = recommender.policy if job.explore else recommender.greedy
    rows = zip(ids, requests.user_ids, pages, strict=True)
    return pa.Table.from_pylist([_row(job, policy, *row) for row in rows], PAGES)


@lru_cache(maxsize=1)
def page_maker(release: Path, delta: int, uri: str, items_version: str) -> Recommender:
    """Return the release's page maker with its deltas and the workspace's facts and features of items.

    It is loaded once per process.

    Raises:
        DeltaError: A delta is damaged.
    """
    workspace = Workspace(uri)
    state, error = caught_up(CatalogueState.of(load_release(release)), until=delta)
    if error is not None:
        raise error
    ids = state.recommender.catalogue.item_ids
    items = workspace.table("clean_items").read(filter=pc.field("item_id").isin(ids))
    facts = {fact.item_id: fact for fact in item_facts(items)}
    fresh = [facts.get(item_id) for item_id in ids.to_pylist()]
    return state.with_fresh_items(fresh, newest_item_features(workspace, ids)).recommender


def _row(job: PagesJob, policy: Policy, name: str, user_id: str, page: Page) -> dict[str, Any]:
    return {
        "request_id": name,
        "user_id": user_id,
        "timestamp": job.time,
        **page.logged(policy),
        "release": job.release_id,
        "catalogue_version": job.catalogue_version,
        "events": [],
        "values": [],
        "event_times": [],
    }
