"""The core on a real release and a real Redis, without HTTP and Ray."""

from __future__ import annotations

import dataclasses
import socket

import numpy as np
import pyarrow as pa
import pytest
import redis

from features.schemas import CLICK, DISLIKE, EVENT_CODE
from features.store.base import Freshness, Histories, ItemFacts, StoreUnavailableError
from features.store.config import StoreConfig
from features.store.redis_store import RedisStore
from models.recommend.recommender import Recommender
from serving.api import ApiError, FilterSpec, RecommendRequest
from serving.fallbacks import DEADLINE, STORE_UNAVAILABLE
from serving.service import RecommendService

pytestmark = pytest.mark.integration


def ask(service: RecommendService, user_id: str, **options):
    request = RecommendRequest(user_id=user_id, **options)
    service.check(request)
    (answer,) = service.recommend([request])
    return answer.page


def items_of(answer) -> list[str]:
    return [item.item_id for item in answer.items]


SEEN_BY_U0 = {"i00", "i02", "i04", "i06", "i08"}


def test_known_user_gets_a_page_without_seen_items(service):
    answer = ask(service, "u0", page_size=7)
    assert len(set(items_of(answer))) == 7
    assert not set(items_of(answer)) & SEEN_BY_U0
    assert answer.fallback is None
    assert answer.arm == "champion"
    assert answer.policy == "epsilon=0,temperature=0"
    assert answer.next_cursor is None


def test_unknown_user_gets_the_popular_list_named_so(service):
    answer = ask(service, "nobody", page_size=3)
    assert items_of(answer) == ["i11", "i10", "i09"]  # popularity of item n is n
    assert answer.fallback == "popular"
    assert {item.source for item in answer.items} == {"popular"}


def test_release_decides_the_default_page_size(service, release):
    assert len(ask(service, "nobody").items) == release.recommender.config.page_size == 5


def test_page_shorter_than_asked_where_nothing_else_may_be_shown(service):
    assert set(items_of(ask(service, "u0", page_size=50))) == {f"i{n:02d}" for n in range(12)} - SEEN_BY_U0


def test_pages_of_one_batch_are_those_of_single_requests(service):
    requests = [RecommendRequest(user_id=user, page_size=size) for user, size in (("u0", 2), ("nobody", 6), ("u3", 4))]
    together = [items_of(answer.page) for answer in service.recommend(requests)]
    assert together == [items_of(ask(service, request.user_id, page_size=request.page_size)) for request in requests]
    assert [len(page) for page in together] == [2, 6, 4]


def test_score_parts_add_up(service):
    for item in ask(service, "u1").items:
        assert item.score == pytest.approx(sum(item.parts.values()), rel=1e-5)
        assert item.source == max(item.parts, key=item.parts.get)


def test_every_answer_has_a_request_id_of_its_own(service):
    assert ask(service, "u0").request_id != ask(service, "u0").request_id


def test_filters_hold_for_every_item(service):
    answer = ask(service, "nobody", page_size=12, filters=FilterSpec(category="aisle1", max_price=6.0))
    assert set(items_of(answer)) == {"i01", "i03", "i05"}  # the price of item n is n + 1
    assert answer.reason == (
        "there are no more than 3 items passing the filters category='aisle1', max_price=6.0 at this moment"
    )


def test_a_filter_that_leaves_nothing_gives_an_empty_page_with_the_reason(service):
    filters = FilterSpec(category="no such", max_price=3.0)
    for answer in (
        ask(service, "u0", filters=filters),
        service.fallback([RecommendRequest(user_id="u0", filters=filters)], DEADLINE)[0].page,
    ):
        assert answer.items == []
        assert answer.reason == (
            "no item of the catalogue passes the filters category='no such', max_price=3.0 at this moment"
        )
    assert b'pagewise_short_pages_total{items="none"} 2.0' in service.metrics.text()


def test_a_full_page_has_no_reason_though_a_longer_one_of_its_batch_has(service):
    requests = [
        RecommendRequest(user_id="nobody", page_size=size, filters=FilterSpec(max_price=3.0)) for size in (2, 5)
    ]
    short, long = [answer.page for answer in service.recommend(requests)]
    assert (len(short.items), short.reason) == (2, None)
    assert (len(long.items), long.reason) == (
        3,
        "there are no more than 3 items passing the filters max_price=3.0 at this moment",
    )


def test_what_the_release_refuses_is_422_with_the_value(service):
    with pytest.raises(ApiError, match=r"page_size: expected 1 to 50, got 51") as caught:
        service.check(RecommendRequest(user_id="u0", page_size=51))
    assert caught.value.status == 422
    with pytest.raises(ApiError, match=r"min_price: expected at most max_price = 2.0, got 5.0"):
        service.check(RecommendRequest(user_id="u0", filters=FilterSpec(min_price=5, max_price=2)))


def test_history_is_what_the_store_holds_now(service, store):
    def visits(*items: str) -> Histories:
        return Histories(
            user_ids=["ann"],
            offsets=np.array([0, len(items)]),
            item_ids=pa.array(items, pa.string()),
            events=np.array([EVENT_CODE[CLICK], EVENT_CODE[DISLIKE]][: len(items)], np.int8),
            times=np.arange(len(items)) + 1,
        )

    assert ask(service, "ann", page_size=1).fallback == "popular"
    store.write_histories(visits("i11", "i10"))
    try:
        answer = ask(service, "ann", page_size=12)
        assert answer.fallback is None
        assert not {"i10", "i11"} & set(items_of(answer))
    finally:
        store.write_histories(visits())


def test_without_a_store_pages_are_still_made_and_say_so(release):
    with RedisStore("redis://127.0.0.1:1", StoreConfig(timeout_s=0.2)) as gone:
        service = RecommendService(release, gone, history_length=10, arm="champion")
        answer = ask(service, "u0", page_size=2)
        assert items_of(answer) == ["i11", "i10"]
        assert answer.fallback == STORE_UNAVAILABLE
        with pytest.raises(ApiError, match=r"redis://127\.0\.0\.1:1 does not answer") as caught:
            service.check_ready()
        assert caught.value.status == 503
        assert service.version().store_generation is None
        with pytest.raises(StoreUnavailableError):
            service.refresh_facts()
        assert b"pagewise_store_failures_total 1.0" in service.metrics.text()


def test_a_store_that_hangs_is_not_waited_for_by_every_request(release, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        url = f"redis://127.0.0.1:{hanging.getsockname()[1]}"
        with RedisStore(url, StoreConfig(timeout_s=0.05)) as store:
            service = RecommendService(release, store, history_length=10, arm="champion")
            monkeypatch.setattr("serving.service.STORE_REST_S", 3600.0)
            assert [ask(service, "u0").fallback for _ in range(3)] == [STORE_UNAVAILABLE] * 3
            assert b"pagewise_store_failures_total 1.0" in service.metrics.text()


def test_a_store_that_answers_again_is_read_again(release, store, monkeypatch):
    monkeypatch.setattr("serving.service.STORE_REST_S", 0.0)
    service = RecommendService(release, store, history_length=10, arm="champion")
    monkeypatch.setattr(store, "users", unanswered)
    assert ask(service, "u0").fallback == STORE_UNAVAILABLE
    monkeypatch.undo()
    assert ask(service, "u0").fallback is None


def unanswered(user_ids, limit):
    raise StoreUnavailableError("gone")


def test_damaged_history_is_an_unknown_user_and_counted(service, store):
    key = store.keys.blob(store.generations()[0], "history", "damaged")
    with redis.Redis.from_url(store.url) as client:
        client.set(key, b"damaged")
        assert ask(service, "damaged").fallback == "popular"
        client.delete(key)
    assert b"pagewise_store_corrupted 1.0" in service.metrics.text()


class BrokenGenRec:
    name = "genrec"

    def retrieve(self, requests, k):
        raise RuntimeError("out of memory")


def test_broken_genrec_leaves_the_others_and_is_named(release, store):
    base = release.recommender
    retrievers = [BrokenGenRec(), *(entry for name, entry in base.retrievers.items() if name != "genrec")]
    broken = dataclasses.replace(release, recommender=Recommender(base.catalogue, retrievers, base.config, base.facts))
    service = RecommendService(broken, store, history_length=10, arm="champion")
    answer = ask(service, "u0", page_size=3)
    assert answer.fallback == "transitions"
    assert len(answer.items) == 3


def test_fallback_page_keeps_the_rules(service):
    request = RecommendRequest(user_id="u0", page_size=3, filters=FilterSpec(category="aisle0"))
    answer = service.fallback([request], DEADLINE)[0].page
    assert items_of(answer) == ["i10"]  # of the even items, u0 has seen all but i10
    assert answer.fallback == DEADLINE


def test_similar_items_follow_this_one(service):
    answer = service.similar("i00", 3)
    assert answer.items[0].item_id == "i02"  # the follower of item n is n + 2
    assert "i00" not in [item.item_id for item in answer.items]
    with pytest.raises(ApiError, match="item 'zz' is not in the catalogue") as caught:
        service.similar("zz", 3)
    assert caught.value.status == 404


def test_facts_of_the_store_take_over_when_they_change(service, store):
    assert service.refresh_facts()
    assert not service.refresh_facts()
    known = store.freshness()
    (facts,) = store.items(["i11"])
    try:
        store.write_items([dataclasses.replace(facts, available=False)])
        assert items_of(ask(service, "nobody", page_size=1)) == ["i11"]
        store.write_freshness(Freshness(generation="2", newest_event_time=None, users=0, items=1))
        assert service.refresh_facts()
        assert items_of(ask(service, "nobody", page_size=1)) == ["i10"]
        assert items_of(service.fallback([RecommendRequest(user_id="nobody", page_size=1)], DEADLINE)[0].page) == [
            "i10"
        ]
    finally:
        store.write_items([facts])
        store.write_freshness(known)


def test_items_unknown_to_the_store_keep_the_facts_of_the_release(service, store):
    with redis.Redis.from_url(store.url) as client:
        client.delete(store.keys.blob(store.generations()[0], "item", "i11"))
    try:
        service.refresh_facts()
        answer = ask(service, "nobody", page_size=1, filters=FilterSpec(min_price=12.0, max_price=12.0))
        assert items_of(answer) == ["i11"]
    finally:
        store.write_items([ItemFacts(item_id="i11", title="x", category=("aisle1",), price=12.0)])


def test_version_says_what_is_running(service, release):
    version = service.version()
    assert version.release == release.manifest.release_id
    assert version.retrievers == ["genrec", "transitions", "popular"]
    assert list(version.runs) == ["genrec"]
    assert version.items == 12
    assert len(version.store_generation) == 16
