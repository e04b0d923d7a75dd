"""What counts as invalid on a page that somebody made up, and that what the service makes is valid."""

from __future__ import annotations

import shutil

import pytest

from models.recommend.delta_changes import withdraw
from models.recommend.known import request_of_users
from models.recommend.release import load_release
from models.recommend.rules import Filters
from serving.api import RecommendRequest
from serving.metrics import ServiceMetrics
from serving.service import RecommendService
from serving.validity import invalid_items


def counts(metrics: ServiceMetrics) -> dict[str, float]:
    found = {reason: metrics.invalid_items.labels(reason)._value.get() for reason in ("unknown", "ineligible", "seen")}
    return {"served": metrics.served_items._value.get(), **found}


def test_each_reason_is_counted(release, store):
    """u0 has had i00; item n costs 1 + n."""
    maker = release.recommender
    users = store.users(["u0", "nobody"], 10)
    batch = request_of_users(users, maker.catalogue, users.histories.times.max() + 1 + 0 * users.histories.offsets[1:])
    pages = [["i00", "i01", "i11"], ["i00", "i99"]]
    found = invalid_items(maker, batch, [Filters(max_price=9), None], pages)
    assert found == {"unknown": 1, "ineligible": 1, "seen": 1}  # i99; i11, which costs 12; i00 for u0


def test_an_answer_given_again_may_hold_what_was_withdrawn_since(release_folder, store, cursors, tmp_path):
    folder = shutil.copytree(release_folder, tmp_path / release_folder.name)
    service = RecommendService(load_release(folder), store, history_length=10, arm="champion", cursors=cursors)

    def page(cursor: str | None = None):
        (answer,) = service.recommend([RecommendRequest(user_id="u0", page_size=3, cursor=cursor)])
        return answer.page

    following = page().next_cursor
    second = page(following)
    assert counts(service.metrics) == {"served": 6, "unknown": 0, "ineligible": 0, "seen": 0}
    withdraw(folder, [second.items[0].item_id])
    service.follow_deltas()
    assert page(following) == second
    assert page().items
    assert counts(service.metrics) == {"served": 12, "unknown": 0, "ineligible": 1, "seen": 0}


@pytest.mark.parametrize("stage", ["store", "cursors", "genrec", "transitions", "candidates", "policy"])
def test_every_stage_is_timed(service, stage):
    service.recommend([RecommendRequest(user_id="u0", page_size=3)])
    assert f'pagewise_stage_seconds_count{{stage="{stage}"}} 1.0'.encode() in service.metrics.text()
