from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pyarrow as pa
import pytest
from judged_world import logged, make_world
from logged_pages import page, table

from features.schemas import PAGES
from features.workspace import Workspace
from models.recommend.eligibility import Eligibility
from models.recommend.policy import Policy
from models.recommend.release import load_release
from models.recommend.requests import PastRequests
from pipelines.replay.config import ReplayConfig
from pipelines.replay.judging import Judge, JudgeJob
from pipelines.replay.preparing import prepare
from pipelines.replay.rounds import Rounds, concatenated


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, str]:
    return make_world(tmp_path_factory.mktemp("world"), epsilon=0.1, temperature=0.2)


def _job(workspace: Workspace, pages: pa.Table, **options: object) -> JudgeJob:
    config = ReplayConfig(**{"champion": "logged", "challenger": "uniform", "reward_model": "table", **options})  # type: ignore[arg-type]
    return prepare(workspace, config, [pages])


def _rounds(workspace: Workspace, pages: pa.Table, **options: object) -> Rounds:
    return Judge(_job(workspace, pages, **options)).rounds(pages)


def _replaced(pages: pa.Table, **columns: list[object] | None) -> pa.Table:
    for name, values in columns.items():
        field = PAGES.field(name)
        array = pa.nulls(len(pages), field.type) if values is None else pa.array(values, field.type)
        pages = pages.set_column(pages.schema.get_field_index(name), field, array)
    return pages


def test_whoever_logged_is_judged_by_the_very_chances_of_the_log(world: tuple[Workspace, str]) -> None:
    rounds = _rounds(world[0], logged(30, 4, 9), champion="logged", challenger="logged")
    for target in (rounds.champion, rounds.challenger):
        assert target.chances is rounds.logged or all(
            (one == other).all()
            for one, other in zip(vars(target.chances).values(), vars(rounds.logged).values(), strict=True)
        )
        assert (target.outside_R == 0).all()
    assert (rounds.champion.expected_RP == rounds.challenger.expected_RP).all()


def test_logged_propensities_are_used_as_they_are_and_followed_by_the_log(world: tuple[Workspace, str]) -> None:
    pages = logged(30, 4, 9)
    judge = Judge(_job(world[0], pages))
    rounds = judge.rounds(pages)
    assert rounds.logged.conditional_RP.tolist() == pages["propensities"].to_pylist()
    assert (judge.skew.checked, judge.skew.differing, judge.skew.unknown) == (120, 0, 0)
    assert judge.skew.largest < 1e-6  # candidate scores are float32


def test_propensities_that_do_not_follow_from_the_log_are_counted(world: tuple[Workspace, str]) -> None:
    pages = logged(10, 2, 6)
    wrong = [[0.99, second] for _, second in pages["propensities"].to_pylist()]
    judge = Judge(_job(world[0], _replaced(pages, propensities=wrong)))
    rounds = judge.rounds(_replaced(pages, propensities=wrong))
    assert (judge.skew.checked, judge.skew.differing) == (20, 10)
    assert (rounds.logged.conditional_RP[:, 0] == 0.99).all()
    first_R = np.array([first for first, _ in pages["propensities"].to_pylist()])
    assert judge.skew.largest == pytest.approx((1 - first_R / 0.99).max(), rel=1e-5), "relative to the logged one"


def test_uniform_chances(world: tuple[Workspace, str]) -> None:
    rounds = _rounds(world[0], logged(5, 3, 8))
    assert rounds.challenger.chances.conditional_RP == pytest.approx(np.tile([1 / 8, 1 / 7, 1 / 6], (5, 1)))
    assert rounds.challenger.chances.marginal_RP == pytest.approx(np.full((5, 3), 1 / 8))


def test_marginals_of_small_pages_are_exact(world: tuple[Workspace, str]) -> None:
    pages = logged(1, 2, 4)
    row = pages.to_pylist()[0]
    weights = dict(zip(row["candidates"], np.exp(np.array(row["candidate_scores"])), strict=True))

    def chance(item: str, before: list[str]) -> float:
        left = [name for name in row["candidates"] if name not in before]
        share = weights[item] / sum(weights[name] for name in left)
        return 0.0 if item in before else 0.8 * share + 0.2 / len(left)

    first, second = row["items"]
    whole = sum(chance(other, []) * chance(second, [other]) for other in row["candidates"])
    assert _rounds(world[0], pages).logged.marginal_RP[0] == pytest.approx([chance(first, []), whole], rel=1e-6)


@pytest.mark.integration
@pytest.mark.parametrize("draws", [8, 20])
def test_weights_by_position_are_unbiased_however_few_pages_are_drawn(world: tuple[Workspace, str], draws: int) -> None:
    pages = logged(3000, 4, 10, policy=Policy(epsilon=0.1, temperature=0.7), same=True)
    rounds = _rounds(world[0], pages, draws=draws, reward_model="none")
    weight_RP = rounds.challenger.chances.marginal_RP / rounds.logged.marginal_RP
    error_P = weight_RP.std(axis=0) / np.sqrt(len(rounds))
    assert (np.abs(weight_RP.mean(axis=0) - 1) < 4 * error_P).all()
    # and by item: what the uniform policy shows in each slot is a tenth of each item
    items = np.array(pages["items"].to_pylist())
    for slot in range(4):
        shares = [weight_RP[items[:, slot] == item, slot].sum() / len(rounds) for item in np.unique(items[:, slot])]
        assert np.mean(np.abs(np.array(shares) - 0.1)) < 0.02


def test_a_release_is_asked_as_the_service_asks_it(world: tuple[Workspace, str]) -> None:
    workspace, release = world
    pages = logged(6, 3, 9)
    rounds = _rounds(workspace, pages, challenger=release)
    maker = load_release(workspace.local_path("releases", release)).recommender
    past = PastRequests(workspace.table("sequences").dataset(), maker.catalogue)
    for number, row in enumerate(pages.to_pylist()):
        allowed = np.isin(maker.catalogue.item_ids.to_pylist(), row["candidates"])
        request = past.at(pa.array([row["user_id"]]), np.array([5 * 86_400_000 + number]), 200)
        ranked = maker.ranked(request, 3, eligible=Eligibility.of(allowed[None], [0]))
        shown = maker.catalogue.ids(ranked.fused.items_BF[0][ranked.fused.items_BF[0] >= 0])
        possible = [item for item in row["items"] if item in shown]
        if len(possible) == 3:
            choice = np.array([[shown.index(item) for item in row["items"]]])
            there = ranked.fused.items_BF >= 0
            expected = np.exp(maker.policy.log_prob(ranked.fused.scores_BF, there, choice))
            assert rounds.challenger.chances.conditional_RP[number] == pytest.approx(expected[0])
        else:  # an item of the user's history, which the release does not show again
            seen = [item not in shown for item in row["items"]]
            assert (rounds.challenger.chances.conditional_RP[number][seen] == 0).all()


def test_the_release_that_made_the_log_has_the_logged_chances(world: tuple[Workspace, str]) -> None:
    workspace, release = world
    maker = load_release(workspace.local_path("releases", release)).recommender
    past = PastRequests(workspace.table("sequences").dataset(), maker.catalogue)
    users, times = [f"u{number}" for number in range(8)], 5 * 86_400_000 + np.arange(8)
    made = maker.pages(past.at(pa.array(users), times, 200), 3, np.arange(8, dtype=np.uint64))
    rows = [
        page(number, made[number].items, user_id=users[number], timestamp=int(times[number]))
        | {name: value for name, value in made[number].logged(maker.policy).items() if name != "items"}
        for number in range(8)
    ]
    rounds = _rounds(workspace, table(rows), challenger=release)
    assert rounds.challenger.chances.conditional_RP == pytest.approx(rounds.logged.conditional_RP, rel=1e-5)
    assert rounds.challenger.outside_R == pytest.approx(np.zeros(8), abs=1e-12)


def test_own_candidates_outside_the_log_are_measured(world: tuple[Workspace, str]) -> None:
    workspace, release = world
    pages = logged(20, 2, 5)
    assert (_rounds(workspace, pages, challenger=release).challenger.outside_R == 0).all()
    own = _rounds(workspace, pages, challenger=release, candidates="own").challenger
    assert 0.3 < own.outside_R.mean() < 0.9  # 5 of 12 items are candidates
    assert own.outside_R.max() <= 1


def test_a_log_without_candidates_has_chances_given_the_slots_before(world: tuple[Workspace, str]) -> None:
    pages = _replaced(logged(10, 3, 8), candidates=None, candidate_scores=None)
    judge = Judge(_job(world[0], pages))
    rounds = judge.rounds(pages)
    assert judge.skew.unknown == 30
    assert (rounds.logged.marginal_RP == rounds.logged.conditional_RP).all()
    assert (rounds.challenger.chances.marginal_RP == rounds.challenger.chances.conditional_RP).all()
    assert rounds.challenger.chances.conditional_RP[0] == pytest.approx([1 / 12, 1 / 11, 1 / 10])  # of all items
    assert not rounds.propensities_estimated


def test_propensities_that_no_page_has_are_estimated_and_marked(world: tuple[Workspace, str]) -> None:
    bare = {"candidates": None, "candidate_scores": None}
    rounds = _rounds(world[0], _replaced(logged(400, 1, 12), propensities=None, **bare))
    assert rounds.propensities_estimated
    assert np.isfinite(rounds.logged.conditional_RP).all()
    assert (1 / rounds.logged.conditional_RP).mean() == pytest.approx(12, rel=0.1)  # sum of 1/p is pages x items
    some = [None if number else [0.5] for number in range(400)]
    mixed = _rounds(world[0], _replaced(logged(400, 1, 12), propensities=some, **bare))
    assert not mixed.propensities_estimated
    assert np.isnan(mixed.logged.conditional_RP).sum() == 399


def test_parts_do_not_matter(world: tuple[Workspace, str]) -> None:
    other = Policy(epsilon=0.5, temperature=0.3)
    pages = pa.concat_tables(
        [logged(7, 4, 9), _renamed(logged(6, 4, 9, policy=other, seed=1)), _renamed(logged(5, 3, 8, seed=2), "c")]
    )
    pages = pages.take(np.random.default_rng(0).permutation(len(pages)))
    job = _job(world[0], pages, challenger=world[1])
    whole = Judge(job).rounds(pages)
    judge = Judge(pickle.loads(pickle.dumps(job)))
    parts = concatenated([judge.rounds(pages.slice(start, 5)) for start in range(0, len(pages), 5)])
    for name in ("users_R", "rewards_RP", "predicted_RP"):
        assert (getattr(whole, name) == getattr(parts, name)).all()
    for one, other_one in ((whole.logged, parts.logged), (whole.challenger.chances, parts.challenger.chances)):
        for field in dataclasses.fields(one):
            assert getattr(one, field.name) == pytest.approx(getattr(other_one, field.name), abs=1e-12)


def _renamed(pages: pa.Table, prefix: str = "b") -> pa.Table:
    return _replaced(pages, request_id=[f"{prefix}{number}" for number in range(len(pages))])


def test_pages_of_several_lengths(world: tuple[Workspace, str]) -> None:
    pages = pa.concat_tables([logged(4, 3, 9), _renamed(logged(3, 1, 9, seed=1))])
    rounds = _rounds(world[0], pages)
    assert rounds.there_RP.sum(axis=1).tolist() == [3] * 4 + [1] * 3
    assert (rounds.logged.conditional_RP[4:, 1:] == 1).all()
    assert (rounds.challenger.expected_RP[4:, 1:] == 0).all()


def test_draws_for_rejection_agree_as_often_as_they_should(world: tuple[Workspace, str]) -> None:
    rounds = _rounds(world[0], logged(2000, 1, 4), reward_model="none")
    assert rounds.challenger.drawn_RP.mean() == pytest.approx(0.25, abs=0.04)


def test_slices_tell_items_and_users_apart(world: tuple[Workspace, str]) -> None:
    rounds = _rounds(world[0], logged(10, 2, 12))
    for group in (("item=head", "item=tail"), ("novelty=known", "novelty=new"), ("users=known", "users=new")):
        assert (rounds.slices[group[0]] ^ rounds.slices[group[1]] == rounds.there_RP).all()
    assert rounds.slices["users=known"].all()


@pytest.mark.parametrize("clusters", ["category", "sid1"])
def test_clusters_hold_what_belongs_together(world: tuple[Workspace, str], clusters: str) -> None:
    rounds = _rounds(world[0], logged(10, 2, 8), clusters=clusters)
    chances = rounds.challenger.chances
    assert (chances.cluster_RP >= chances.marginal_RP - 1e-12).all()
    if clusters == "category":  # two aisles: the eight candidates are of one or the other
        first = chances.cluster_RP[:, 0] * 8
        assert first == pytest.approx(first.round())
        assert (first >= 1).all()


def test_unknown_clusters_are_refused(world: tuple[Workspace, str]) -> None:
    with pytest.raises(ValueError, match="clusters: expected category, sid1, sid2 and so on, got 'brand'"):
        _rounds(world[0], logged(2, 1, 4), clusters="brand")


def test_the_pseudo_inverse_of_one_slot_is_the_ratio_of_chances(world: tuple[Workspace, str]) -> None:
    rounds = _rounds(world[0], logged(10, 1, 6), estimator="pi")
    ratio_R = (1 / 6) / rounds.logged.conditional_RP[:, 0]
    assert rounds.challenger.pseudo_inverse_R == pytest.approx(ratio_R, rel=1e-5)
    assert rounds.champion.pseudo_inverse_R is not None
    assert (rounds.champion.pseudo_inverse_R == 1).all()


def test_pseudo_inverse_weights_have_mean_one_and_are_not_asked_of_large_pages(world: tuple[Workspace, str]) -> None:
    rounds = _rounds(world[0], logged(400, 2, 5, same=True), estimator="pi", reward_model="none")
    weights_R = rounds.challenger.pseudo_inverse_R
    assert weights_R is not None
    assert weights_R.mean() == pytest.approx(1, abs=4 * weights_R.std() / 20)
    assert _rounds(world[0], logged(2, 2, 5)).challenger.pseudo_inverse_R is None


def test_the_boosted_model_predicts_something_of_everything(world: tuple[Workspace, str]) -> None:
    rounds = _rounds(world[0], logged(300, 3, 9), reward_model="boosted", challenger=world[1])
    assert rounds.predicted_RP.mean() == pytest.approx(rounds.rewards_RP.mean(), abs=0.05)
    assert (rounds.challenger.expected_RP >= 0).all()
    assert rounds.challenger.expected_RP.mean() > 0.1


def test_of_many_pages_an_even_sample_is_looked_at(
    world: tuple[Workspace, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [_renamed(logged(100, 1, 4, seed=part), f"p{part}-") for part in range(4)]
    config = ReplayConfig(champion="logged", challenger="uniform", reward_model="table")
    assert prepare(world[0], config, parts).sums.shown_YF.sum() == 400
    monkeypatch.setattr("pipelines.replay.preparing.FIT_PAGES", 200)
    assert 100 <= prepare(world[0], config, parts).sums.shown_YF.sum() <= 200


def test_nothing_to_judge(world: tuple[Workspace, str]) -> None:
    with pytest.raises(ValueError, match="expected logged pages to judge, got none"):
        prepare(world[0], ReplayConfig(champion="logged", challenger="uniform"), [])
