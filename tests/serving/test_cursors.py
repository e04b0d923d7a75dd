"""Pages of one list: they continue each other, whatever happens in between; on a real Redis."""

from __future__ import annotations

import dataclasses
import json
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.schemas import CLICK, EVENT_CODE
from features.store.base import Histories
from features.store.config import StoreConfig
from features.store.redis_store import RedisStore
from models.recommend.config import RecommendConfig
from models.recommend.recommender import Recommender
from models.recommend.release import Release
from serving.api import ApiError, FilterSpec, RecommendRequest, RecommendResponse
from serving.cursors import Continuation, Cursors, history_marks
from serving.fallbacks import DEADLINE, STORE_UNAVAILABLE
from serving.pages import Answer
from serving.service import RecommendService

pytestmark = pytest.mark.integration

ALL = {f"i{n:02d}" for n in range(12)}


class Rows(list):
    """A page log that remembers."""

    add = list.append


@pytest.fixture
def log() -> Rows:
    return Rows()


def with_config(release: Release, **options) -> Release:
    """The release without GenRec, so that pages are quick, with another configuration."""
    base = release.recommender
    parts = [part for name, part in base.retrievers.items() if name != "genrec"]
    config = RecommendConfig(**{"epsilon": 0.3, "temperature": 0.1, "page_size": 3, "genrec_weight": 0.0, **options})
    return dataclasses.replace(release, recommender=Recommender(base.catalogue, parts, config, base.facts))


@pytest.fixture
def make(release, store, cursors, log) -> Callable[..., RecommendService]:
    def make(**options) -> RecommendService:
        served = with_config(release, **options)
        return RecommendService(served, store, history_length=50, arm="a", cursors=cursors, page_log=log)

    return make


def ask(service: RecommendService, user_id: str = "u0", **options) -> RecommendResponse:
    """Ask as the backend does: errors are raised, first pages logged once they are answered."""
    (answer,) = service.recommend([RecommendRequest(user_id=user_id, **options)])
    return given_to_client(service, answer)


def given_to_client(service: RecommendService, answer: Answer | ApiError) -> RecommendResponse:
    if isinstance(answer, ApiError):
        raise answer
    if answer.row is not None:
        service.log(answer.row)
    return answer.page


def items_of(page: RecommendResponse) -> list[str]:
    return [item.item_id for item in page.items]


def click(store: RedisStore, user_id: str, *items: str) -> None:
    store.write_histories(
        Histories(
            user_ids=[user_id],
            offsets=np.array([0, len(items)]),
            item_ids=pa.array(items, pa.string()),
            events=np.full(len(items), EVENT_CODE[CLICK], np.int8),
            times=np.arange(len(items)) + 1,
        )
    )


def test_pages_of_a_list_go_on_until_nothing_is_left(make):
    service = make()
    page, found = ask(service, "nobody"), []
    while True:
        found += items_of(page)
        if page.next_cursor is None:
            break
        page = ask(service, "nobody", cursor=page.next_cursor)
    assert sorted(found) == sorted(ALL)
    assert len(found) == 12


def test_the_list_without_exploration_is_the_longer_page_in_pieces(make):
    service = make(epsilon=0.0, temperature=0.0)
    whole = items_of(ask(service, page_size=6))
    first = ask(service, page_size=2)
    second = ask(service, cursor=first.next_cursor)
    third = ask(service, cursor=second.next_cursor)
    assert items_of(first) + items_of(second) + items_of(third) == whole
    assert len({page.request_id for page in (first, second, third)}) == 3
    assert b'pagewise_cursors_total{outcome="continued"} 2.0' in service.metrics.text()


def test_the_lists_of_a_user_who_is_forgotten_are_removed(make, store, cursors):
    service = make()
    ids = ['eve "Ä"', "eve", "evelyn"]
    store.remove_lists([*ids, "nobody"])  # those of other tests
    firsts = {user: ask(service, user, context={"user_id": "eve"}) for user in ids}
    seconds = {user: ask(service, user, cursor=firsts[user].next_cursor) for user in ids}
    assert store.remove_lists([ids[0], "eve", "unknown"]) == 6  # of each, what its two cursors stand for, and a page
    for user in ids[:2]:
        with pytest.raises(ApiError, match="the cursor is unknown or older than"):
            ask(service, user, cursor=firsts[user].next_cursor)
    assert ask(service, "evelyn", cursor=firsts["evelyn"].next_cursor) == seconds["evelyn"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["next", "again", "click"]), min_size=1, max_size=8), st.integers(1, 4))
def test_whatever_happens_pages_never_repeat_an_item_nor_change(make_once, actions, size):
    service, store, log, user = make_once()
    page = ask(service, user, page_size=size)
    cursor, shown, clicked = None, items_of(page), []
    for action in actions:
        if action == "again" and cursor is not None:
            assert ask(service, user, cursor=cursor) == page
        elif action == "click" and shown:
            clicked.append(shown[-1])
            click(store, user, *clicked)
        elif action == "next" and page.next_cursor is not None:
            cursor = page.next_cursor
            page = ask(service, user, cursor=cursor)
            assert not set(shown) & set(items_of(page))
            assert not set(clicked) & set(items_of(page))
            shown += items_of(page)
    mine = [row for row in log if row["user_id"] == user]
    assert [item for row in mine for item in row["items"]] == shown
    assert len({row["request_id"] for row in mine}) == len(mine)


@pytest.fixture
def make_once(make, store, log):
    """One service for all examples, each with a user of its own."""
    service, numbers = make(), iter(range(10**6))
    return lambda: (service, store, log, f"someone {next(numbers)}")


def test_later_propensities_are_conditional_on_what_was_shown_before(make, log):
    service = make()
    for _ in range(20):
        first = ask(service, "nobody")
        ask(service, "nobody", cursor=first.next_cursor)
    policy = service._served.maker.policy
    for first, second in zip(log[::2], log[1::2], strict=True):
        # the second page's candidates are what the first one left of its own
        left = [item for item in first["candidates"] if item not in first["items"]]
        assert second["candidates"] == left
        for row in (first, second):
            scores = np.array([row["candidate_scores"]], np.float32)
            chosen = np.array([[row["candidates"].index(item) for item in row["items"]]])
            log_P = policy.log_prob(scores, np.ones(scores.shape, bool), chosen)[0]
            np.testing.assert_allclose(np.exp(log_P), row["propensities"])


def test_a_page_asked_for_again_is_the_same_though_the_user_has_acted_since(make, store, log):
    service = make()
    first = ask(service, "ann")
    second = ask(service, "ann", cursor=first.next_cursor)
    click(store, "ann", items_of(second)[0])
    try:
        assert ask(service, "ann", cursor=first.next_cursor) == second
        assert len(log) == 2
        assert b'pagewise_cursors_total{outcome="repeated"} 1.0' in service.metrics.text()
    finally:
        click(store, "ann")


def test_after_an_event_the_rest_is_ranked_anew_without_what_was_shown(make, store):
    service = make(epsilon=0.0, temperature=0.0, exclude_seen=False)
    first = ask(service, "ann")
    assert items_of(first) == ["i11", "i10", "i09"]  # popularity of item n is n
    click(store, "ann", "i00", "i11")  # the follower of item n is n + 2: i02 and i01
    try:
        second = ask(service, "ann", cursor=first.next_cursor)
        assert items_of(second) == ["i01", "i02", "i08"]
        assert (first.fallback, second.fallback) == ("popular", None)
        assert b'pagewise_cursors_total{outcome="refreshed"} 1.0' in service.metrics.text()
    finally:
        click(store, "ann")


def test_a_list_that_is_longer_than_its_candidates_is_ranked_on(make):
    service = make(candidates=4, pool=4)
    found, page = [], ask(service, "nobody")
    while page.next_cursor is not None:
        found += items_of(page)
        page = ask(service, "nobody", cursor=page.next_cursor)
    assert sorted(found + items_of(page)) == sorted(ALL)


def test_another_release_ranks_the_rest_anew(make, release, store, cursors, log):
    first = ask(make(), "nobody")
    other = with_config(release)
    other = dataclasses.replace(other, manifest=dataclasses.replace(other.manifest, release_id="another"))
    service = RecommendService(other, store, history_length=50, arm="a", cursors=cursors, page_log=log)
    second = ask(service, "nobody", cursor=first.next_cursor)
    assert (first.release != second.release, set(items_of(first)) & set(items_of(second))) == (True, set())


def test_filters_and_context_hold_for_all_pages(make, log):
    service, odd = make(), FilterSpec(category="aisle1")
    first = ask(service, "nobody", page_size=2, filters=odd, context={"device": "phone"})
    second = ask(service, "nobody", cursor=first.next_cursor)
    third = ask(service, "nobody", cursor=second.next_cursor, page_size=2, filters=odd, context={"device": "phone"})
    odd_items = {f"i{n:02d}" for n in range(1, 12, 2)}
    assert {*items_of(first), *items_of(second), *items_of(third)} == odd_items
    assert third.next_cursor is None
    assert json.loads(log[1]["filters"])["category"] == "aisle1"
    assert json.loads(log[1]["context"]) == {"device": "phone"}


@pytest.mark.parametrize(
    ("options", "status", "error", "detail"),
    [
        ({"user_id": "eve"}, 400, "foreign_cursor", "the list of another user than user_id = 'eve'"),
        ({"page_size": 4}, 400, "other_list", "page_size: expected 3, as for the first page"),
        ({"context": {"a": "b"}}, 400, "other_list", "context: expected None, .* got {'a': 'b'}"),
        ({"cursor": "x"}, 410, "cursor_expired", "unknown or older than 600 s; leave it out to begin a new list"),
    ],
)
def test_cursors_that_do_not_fit_are_refused(make, options, status, error, detail):
    service = make()
    first = ask(service, "nobody")
    for _ in range(2):  # before its page was made, and after
        with pytest.raises(ApiError, match=detail) as caught:
            ask(service, **{"user_id": "nobody", "cursor": first.next_cursor, **options})
        assert (caught.value.status, caught.value.error) == (status, error)
        ask(service, "nobody", cursor=first.next_cursor)


def test_an_error_of_one_cursor_leaves_the_rest_of_its_batch(make):
    service = make()
    good, bad, cursor = service.recommend(
        [
            RecommendRequest(user_id="u0"),
            RecommendRequest(user_id="u1", cursor="no such"),
            RecommendRequest(user_id="nobody", cursor=ask(service, "nobody").next_cursor, page_size=3),
        ]
    )
    assert isinstance(bad, ApiError)
    assert len(good.page.items) == len(cursor.page.items) == 3


def test_cursors_expire(make, store, cursors):
    service = make()
    first = ask(service, "nobody")
    (before,) = store.client.scan_iter(match=f"*{first.next_cursor}*")
    assert 0 < store.client.ttl(before) <= 600
    store.client.delete(before)
    with pytest.raises(ApiError, match="cursor is unknown or older"):
        ask(service, "nobody", cursor=first.next_cursor)


def test_who_asks_at_once_gets_one_page(make):
    service = make(epsilon=1.0)
    first = ask(service, "nobody")
    request = RecommendRequest(user_id="nobody", cursor=first.next_cursor)
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: service.recommend([request])[0].page, range(8)))
    assert all(answer == answers[0] for answer in answers)


def test_tokens_and_marks_say_nothing(make):
    service = make()
    tokens = {ask(service, "nobody").next_cursor for _ in range(10)}
    assert len(tokens) == 10
    assert {len(token) for token in tokens} == {32}  # 24 random bytes


def test_marks_change_with_every_part_of_a_history():
    def mark(items: list[str], events: list[int], times: list[int]) -> str:
        (one,) = history_marks(
            Histories(
                user_ids=["ann"],
                offsets=np.array([0, len(items)]),
                item_ids=pa.array(items, pa.string()),
                events=np.array(events, np.int8),
                times=np.array(times, np.int64),
            )
        )
        return one

    base = mark(["a", "b"], [1, 2], [3, 4])
    assert base == mark(["a", "b"], [1, 2], [3, 4])
    others = [mark(["a", "c"], [1, 2], [3, 4]), mark(["a", "b"], [1, 1], [3, 4]), mark(["a", "b"], [1, 2], [3, 5])]
    assert len({base, *others, mark([], [], [])}) == 5


def test_the_page_that_stands_in_after_the_deadline_is_the_page_of_its_cursor(make, log):
    service = make(epsilon=0.0, temperature=0.0, page_size=1)
    first = given_to_client(service, service.fallback([RecommendRequest(user_id="u0")], DEADLINE)[0])
    assert first.fallback == DEADLINE
    second = ask(service, "u0", cursor=first.next_cursor)  # ranked by all retrievers now
    assert second.fallback is None
    assert not set(items_of(first)) & set(items_of(second))
    request = RecommendRequest(user_id="u0", cursor=second.next_cursor)
    third = given_to_client(service, service.fallback([request], DEADLINE)[0])
    assert third.fallback is None  # nobody but the list itself is needed
    assert ask(service, "u0", cursor=second.next_cursor) == third


def test_without_redis_a_cursor_gets_503_and_pages_are_the_last_of_their_lists(release, log):
    with RedisStore("redis://127.0.0.1:1", StoreConfig(timeout_s=0.2)) as gone:
        cursors = Cursors(gone.client, "pagewise", ttl_s=60)
        served = with_config(release)
        service = RecommendService(served, gone, history_length=10, arm="a", cursors=cursors, page_log=log)
        page = ask(service, "u0")
        assert (page.next_cursor, page.fallback, len(log)) == (None, STORE_UNAVAILABLE, 1)
        with pytest.raises(ApiError, match="ask again, or leave the cursor out") as caught:
            ask(service, "u0", cursor="x")
        assert (caught.value.status, caught.value.headers) == (503, {"Retry-After": "1"})


def test_where_a_page_cannot_be_kept_the_next_one_waits_for_nothing(release, store, monkeypatch):
    """What it hung on would hold up what comes next, too: its users are asked of the same Redis."""
    monkeypatch.setattr("serving.service.STORE_REST_S", 3600.0)
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        client = redis.Redis(port=hanging.getsockname()[1], socket_timeout=0.05)
        cursors = Cursors(client, "pagewise", ttl_s=60)
        service = RecommendService(with_config(release), store, history_length=10, arm="a", cursors=cursors)
        pages = [ask(service, "u0") for _ in range(3)]
    assert [page.fallback for page in pages] == [None, STORE_UNAVAILABLE, STORE_UNAVAILABLE]
    assert [page.next_cursor for page in pages] == [None] * 3
    assert b"pagewise_store_failures_total 1.0" in service.metrics.text()


def test_where_redis_takes_nothing_users_are_known_on(release, store, monkeypatch):
    monkeypatch.setattr("serving.service.STORE_REST_S", 3600.0)
    store.client.execute_command("ACL", "SETUSER", "reader", "on", "nopass", "~*", "+@read", "+@connection")
    path = store.client.connection_pool.connection_kwargs["path"]
    with redis.Redis(unix_socket_path=path, username="reader", password="any") as reader:
        cursors = Cursors(reader, "pagewise", ttl_s=60)
        service = RecommendService(with_config(release), store, history_length=10, arm="a", cursors=cursors)
        pages = [ask(service, "u0") for _ in range(3)]
    store.client.execute_command("ACL", "DELUSER", "reader")
    assert [(page.fallback, page.next_cursor) for page in pages] == [(None, None)] * 3
    assert b"pagewise_store_failures_total 1.0" in service.metrics.text()


def test_what_an_older_version_kept_has_expired(make, store):
    service = make()
    first = ask(service, "nobody")
    (key,) = store.client.scan_iter(match=f"*{first.next_cursor}*")
    blob = store.client.get(key)
    assert Continuation.from_bytes(blob).shown == tuple(items_of(first))
    store.client.set(key, bytes([99]) + blob[1:])
    with pytest.raises(ApiError, match="cursor is unknown or older"):
        ask(service, "nobody", cursor=first.next_cursor)


def test_a_continuation_survives_its_encoding(make, store):
    first = ask(make(), "u1")
    (key,) = store.client.scan_iter(match=f"*{first.next_cursor}*")
    kept = Continuation.from_bytes(store.client.get(key))
    again = Continuation.from_bytes(kept.to_bytes())
    for name in ("items_BF", "scores_BF", "parts_BFR", "named_BF"):
        np.testing.assert_array_equal(getattr(again.ranking, name), getattr(kept.ranking, name))
    assert dataclasses.replace(again, ranking=None) == dataclasses.replace(kept, ranking=None)
