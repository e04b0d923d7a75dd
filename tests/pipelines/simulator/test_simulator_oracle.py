from __future__ import annotations

import numpy as np
import pytest

from features.schemas import CLICK, IMPRESSION, PURCHASE
from features.workspace import Workspace
from pipelines.simulator.behaviour import answer_probabilities, draw_answers
from pipelines.simulator.job import SimulationReport
from pipelines.simulator.oracle import Kind, Oracle

START = 1_735_689_600_000  # 2025-01-01 UTC

Simulated = tuple[Workspace, SimulationReport]


def logged_pages(workspace: Workspace) -> tuple[list[str], np.ndarray, list[list[str]]]:
    rows = workspace.table("events").read(["request_id", "user_id", "item_id", "event", "timestamp", "position"])
    pages: dict[str, tuple[str, int, list[str]]] = {}
    shown = [row for row in rows.to_pylist() if row["event"] == IMPRESSION]
    for row in sorted(shown, key=lambda row: (row["request_id"], row["position"])):
        time = round(row["timestamp"].timestamp() * 1000)
        pages.setdefault(row["request_id"], (row["user_id"], time, []))[2].append(row["item_id"])
    users, times, items = zip(*pages.values(), strict=True)
    return list(users), np.array(times), list(items)


def standard_error(oracle: Oracle, kind: Kind, users: list[str], times: np.ndarray, pages: list[list[str]]) -> float:
    """Positions answer independently given the state: the variances `p (1 - p) prize ** 2` add up."""
    numbers_R = np.array([int(user[1:]) for user in users])
    items_RP = np.array([[int(item[1:]) for item in page] for page in pages])
    moments = oracle.moments(numbers_R, times - START)
    chance = oracle.expected_rewards_by_position(moments, items_RP, "click" if kind == "click" else "purchase")
    prize = oracle.world.items.price_N[items_RP] if kind == "value" else 1.0
    return float(np.sqrt((chance * (1 - chance) * prize**2).sum()))


@pytest.mark.parametrize("kind", ["click", "purchase", "value"])
def test_logged_pages_earn_what_the_oracle_expects(simulated: Simulated, oracle: Oracle, kind: Kind) -> None:
    workspace, report = simulated
    users, times, pages = logged_pages(workspace)
    assert len(pages) == report.pages
    expected = oracle.expected_reward(users, times, pages, kind).sum()
    events = workspace.table("events").read(["event", "value"]).to_pylist()
    earned = {
        "click": sum(row["event"] == CLICK for row in events),
        "purchase": sum(row["event"] == PURCHASE for row in events),
        "value": sum(row["value"] for row in events if row["event"] == PURCHASE),
    }[kind]
    assert abs(earned - expected) < 4 * standard_error(oracle, kind, users, times, pages)
    assert expected > 0


def test_oracle_equals_monte_carlo_for_a_page_nobody_was_shown(oracle: Oracle) -> None:
    draws = 30_000
    page = np.array([[1, 120, 33, 7, 45]])
    moments = oracle.moments(np.array([11]), np.array([2 * 86_400_000 + 71_000_000]))
    answers = answer_probabilities(oracle.world, moments, page)
    many = type(answers)(**{name: np.repeat(value, draws, axis=0) for name, value in vars(answers).items()})
    stages = draw_answers(many, np.random.default_rng(8))
    price = oracle.world.items.price_N[page]
    rewards = {"click": stages >= 1, "purchase": stages >= 3, "value": (stages >= 3) * price}
    ids = [[f"i{number:06d}" for number in page[0]]]
    for kind, reward in rewards.items():
        totals = reward.sum(axis=1)
        error = totals.std() / np.sqrt(draws)
        truth = oracle.expected_reward(["u000011"], START + moments.times_R, ids, kind)  # type: ignore[arg-type]
        assert abs(totals.mean() - truth[0]) < 4 * error


def test_state_is_the_one_strictly_before_the_time(oracle: Oracle) -> None:
    user = int(np.bincount(oracle._users_V[1:]).argmax())
    rows = np.flatnonzero(oracle._users_V == user)
    times = oracle._keys_V[rows] - user * (1 << 42)
    at_pages = oracle.moments(np.full(len(rows), user), times)
    assert at_pages.needs_R[0] == oracle.world.users.first_need_U[user]
    assert (at_pages.needs_R[1:] == oracle._needs_after_V[rows[:-1]]).all()
    assert (at_pages.recent_RMP[0] == -1).all()
    assert (at_pages.recent_RMP[1:, 0] == oracle._items_VP[rows[:-1]]).all()
    assert (at_pages.recent_RMP[2:, 1] == oracle._items_VP[rows[:-2]]).all()
    after = oracle.moments(np.array([user]), times[-1:] + 1)
    assert (after.recent_RMP[0, 0] == oracle._items_VP[rows[-1]]).all()


def test_pages_of_any_length_and_a_user_never_seen(oracle: Oracle) -> None:
    time = np.full(3, START)
    user = ["u000003"] * 3
    empty, one, two = oracle.expected_reward(user, time, [[], ["i000001"], ["i000001", "i000002"]])
    assert empty == 0.0
    assert 0.0 < one < two < 2.0


def test_unknown_names_and_unequal_lengths_are_refused(oracle: Oracle) -> None:
    now = np.array([START])
    with pytest.raises(ValueError, match="unknown item 'i999999': expected one of the 218 simulated items"):
        oracle.expected_reward(["u000000"], now, [["i999999"]])
    with pytest.raises(ValueError, match="unknown user 'bob': expected one of the 400 simulated users"):
        oracle.expected_reward(["bob"], now, [["i000000"]])
    with pytest.raises(ValueError, match="as many users as times and pages, got 1, 1, 2"):
        oracle.expected_reward(["u000000"], now, [[], []])
    with pytest.raises(ValueError, match="click, purchase or value, got 'likes'"):
        oracle.expected_reward(["u000000"], now, [["i000000"]], "likes")  # type: ignore[arg-type]
