"""Champion and challenger in one process, on two real releases."""

from __future__ import annotations

import logging

import pytest

from models.recommend.release import load_release
from serving.api import RecommendRequest
from serving.arms import Arms, in_share, load_arms
from serving.fallbacks import DEADLINE
from serving.metrics import ServiceMetrics
from serving.service import RecommendService

USERS = [f"user {n}" for n in range(2000)]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_the_challenger_gets_its_share(share):
    drawn = sum(in_share(USERS, share, "spring"))
    assert abs(drawn - 2000 * share) <= 4 * (2000 * share * (1 - share)) ** 0.5  # four standard deviations


def test_users_stay_and_a_larger_share_only_adds_some():
    few, many = in_share(USERS, 0.1, "spring"), in_share(USERS, 0.3, "spring")
    assert few == in_share(USERS, 0.1, "spring")
    assert all(more for less, more in zip(few, many, strict=True) if less)


def test_another_salt_draws_users_that_know_nothing_of_those_before():
    first, second = in_share(USERS, 0.5, "spring"), in_share(USERS, 0.5, "autumn")
    both = sum(a and b for a, b in zip(first, second, strict=True))
    assert abs(both - 500) < 4 * (2000 * 0.25 * 0.75) ** 0.5


@pytest.fixture
def make(store, cursors):
    metrics = ServiceMetrics()
    return lambda release, arm: RecommendService(
        release, store, history_length=50, arm=arm, cursors=cursors, metrics=metrics
    )


@pytest.fixture
def arms(release, next_release_folder, make) -> Arms:
    challenger = make(load_release(next_release_folder), "challenger")
    return Arms(make(release, "champion"), challenger, share=0.5, salt="spring")


def test_a_batch_is_answered_by_both_and_says_by_whom(arms, release, next_release_folder):
    users = [f"u{n}" for n in range(10)]
    requests = [RecommendRequest(user_id=user, page_size=2) for user in users]
    challenged = in_share(users, 0.5, "spring")
    assert 0 < sum(challenged) < 10
    answers = [answer.page for answer in arms.recommend(requests)]
    for page, request, other, user in zip(answers, requests, challenged, users, strict=True):
        name, folder = ("challenger", next_release_folder.name) if other else ("champion", release.manifest.release_id)
        assert (page.arm, page.release) == (name, folder)
        (alone,) = arms.recommend([request])
        assert (alone.page.arm, alone.page.release) == (name, page.release)
        assert (alone.row["arm"], alone.row["user_id"]) == (name, user)
        assert arms.fallback([request], DEADLINE)[0].page.arm == name
    assert arms.version().challenger == next_release_folder.name
    assert arms.version().challenger_share == 0.5
    text = arms.metrics.text().decode()
    assert 'arm="champion"' in text
    assert 'arm="challenger"' in text


def test_a_list_goes_on_in_its_arm(arms):
    for user in ("u0", "u1", "u2", "u3"):
        (first,) = arms.recommend([RecommendRequest(user_id=user, page_size=2)])
        (second,) = arms.recommend([RecommendRequest(user_id=user, cursor=first.page.next_cursor)])
        assert second.page.arm == first.page.arm
        assert not {item.item_id for item in first.page.items} & {item.item_id for item in second.page.items}


def test_both_follow_the_store_and_their_deltas(arms):
    assert arms.refresh_facts()
    assert not arms.refresh_facts()
    assert not arms.follow_deltas()


def test_a_challenger_that_cannot_be_loaded_leaves_the_champion(release_folder, tmp_path, make, caplog):
    with caplog.at_level(logging.ERROR, "serving.arms"):
        arms = load_arms(release_folder, tmp_path / "gone", make, share=0.5, salt="spring")
    assert "everybody gets the champion" in caplog.text
    answers = arms.recommend([RecommendRequest(user_id=f"u{n}") for n in range(10)])
    assert {answer.page.arm for answer in answers} == {"champion"}
    assert arms.version().challenger is None


def test_each_challenger_draws_users_of_its_own(release_folder, next_release_folder, make):
    drawn, users = [], [f"u{n}" for n in range(40)]
    for champion, challenger in ((release_folder, next_release_folder), (next_release_folder, release_folder)):
        arms = load_arms(champion, challenger, make, share=0.5, salt=None)
        answers = arms.recommend([RecommendRequest(user_id=user) for user in users])
        drawn.append([answer.page.arm == "challenger" for answer in answers])
        assert drawn[-1] == in_share(users, 0.5, challenger.name)
    assert drawn[0] != drawn[1]


def test_without_a_share_the_challenger_is_not_loaded(release_folder, next_release_folder, make):
    assert len(load_arms(release_folder, next_release_folder, make, share=0.0, salt="").services) == 1
    assert len(load_arms(release_folder, next_release_folder, make, share=0.1, salt="").services) == 2
