"""Parts of an alignment, with numbers that can be followed by hand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from features.schemas import CLICK, DISLIKE, EVENT_CODE, IMPRESSION, TRAIN
from features.semantic_ids import Catalogue
from features.workspace import Workspace
from models.alignment.config import AlignConfig
from models.genrec.config import GenRecConfig
from models.recommend.requests import cases_from_table, requests_from_sequences
from models.training.alignment_data import PromptSource
from models.training.alignment_measure import HeldOutReferee
from models.training.alignment_reward import Gate, Judge, anchors_of, make_gate

CATALOGUE = Catalogue(["a", "b", "c", "d"], np.array([[0, 0], [0, 1], [1, 0], [1, 0]]), (2, 2))
VECTORS_ND = np.array([[1, 0], [0.6, 0.8], [0, 1], [0, 1]], dtype=np.float32)
SHAPE = GenRecConfig(layers=1, width=16, heads=2, kv_heads=1, ffn_width=16, page_items=2)


def sequences(pages: list[list[tuple[str, str]]]) -> pa.Table:
    """One user; page `p` was shown at time `10 p` and holds items with what was done to them."""
    times = [10 * number for number in range(len(pages))]
    row = {
        "user_id": "u",
        "split": TRAIN,
        "page_ids": [f"p{number}" for number in range(len(pages))],
        "page_times": times,
        "page_lengths": [len(page) for page in pages],
        "items": [item for page in pages for item, _ in page],
        "events": [EVENT_CODE[kind] for page in pages for _, kind in page],
        "times": [time for time, page in zip(times, pages, strict=True) for _ in page],
    }
    schema = Workspace("unused").table("sequences").schema
    return pa.Table.from_pylist([row], schema=schema)


def workspace_of(folder, pages):
    workspace = Workspace(folder)
    table = workspace.table("sequences")
    table.commit([table.write_part(sequences(pages), shard=0)])
    return workspace


def evaluations(*pairs: tuple[float, float]) -> list[tuple[int, dict[str, float]]]:
    return [(step, {"hr_at_10": rate, "reward": reward}) for step, (rate, reward) in enumerate(pairs)]


@pytest.mark.parametrize(
    ("pairs", "fires"),
    [
        ([(0.20, 0.1), (0.15, 0.2)], False),  # once is not twice
        ([(0.20, 0.1), (0.15, 0.2), (0.14, 0.3)], True),
        ([(0.20, 0.1), (0.15, 0.2), (0.19, 0.3)], False),  # 0.19 is within a tenth of 0.20
        ([(0.20, 0.1), (0.15, 0.2), (0.14, 0.1)], False),  # the reward did not rise
        ([(0.20, 0.1), (0.30, 0.2), (0.26, 0.3), (0.25, 0.4)], True),  # the best came later
        ([(0.20, 0.1), (0.30, 0.5), (0.26, 0.3), (0.25, 0.4)], False),  # and had more reward
    ],
)
def test_the_rule_stops_when_hits_fall_while_the_reward_rises(pairs, fires):
    referee = HeldOutReferee(AlignConfig(patience=2, tolerance=0.1))
    assert bool(referee.stop(evaluations(*pairs))) == fires


def test_the_rule_says_from_where_to_where():
    reason = HeldOutReferee(AlignConfig(patience=1, tolerance=0.1)).stop(evaluations((0.2, 0.1), (0.1, 0.3)))
    assert reason == (
        "held-out HR@10 fell from 0.2000 to 0.1000 while reward rose from 0.1000 to 0.3000: the reward is being "
        "exploited"
    )


def test_the_most_reward_wins_among_weights_that_lost_no_hits():
    referee = HeldOutReferee(AlignConfig(tolerance=0.1))
    assert referee.value(evaluations((0.2, 0.1))) == 0.1
    assert referee.value(evaluations((0.2, 0.1), (0.19, 0.3))) == 0.3
    assert referee.value(evaluations((0.2, 0.1), (0.17, 0.4))) == -np.inf
    assert referee.value(evaluations((0.2, 0.1), (0.3, 0.2), (0.25, 0.4))) == -np.inf


def test_weights_that_a_better_hit_rate_leaves_behind_are_kept_no_more():
    referee = HeldOutReferee(AlignConfig(tolerance=0.1))
    pairs = [(0.2, 0.1), (0.19, 0.6), (0.3, 0.4), (0.28, 0.5), (0.2, 0.9), (0.3, 0.3)]
    values = [referee.value(evaluations(*pairs[: number + 1])) for number in range(len(pairs))]
    # 0.19 is more than a tenth below 0.30: its reward of 0.6 stands against nothing any more, 0.28 may stay
    assert values == [0.1, 0.6, 2.4, 2.5, -np.inf, 2.3]


def test_prompts_are_dealt_pass_after_pass_and_the_same_for_a_seed():
    cases = cases_from_table(
        sequences([[("a", CLICK), ("b", CLICK), ("c", CLICK)]] * 5), CATALOGUE, TRAIN, max_history=9
    )
    source = PromptSource(cases, CATALOGUE, SHAPE, pages_per_step=2, period=5, seed=3)
    batches = list(source.iterate(0, 0))
    pages = [time // 10 for batch in batches for time in batch.requests.times_B.tolist()]
    assert sorted(pages[:5]) == sorted(pages[5:]) == [0, 1, 2, 3, 4]
    assert pages[:5] != pages[5:]
    again = source.batch(3)
    assert again.requests.times_B.tolist() == batches[3].requests.times_B.tolist()
    assert (again.seed, again.taught_BP.tolist()) == (batches[3].seed, batches[3].taught_BP.tolist())
    assert again.taught_BP.shape == (2, 2), "no more positives are taught than a page has slots"
    assert again.positives.tolist() == [0, 1, 2, 0, 1, 2]
    assert len({batch.seed for batch in batches}) == 5


def test_anchors_are_what_was_liked_before_and_on_the_page():
    pages = [[("a", CLICK), ("b", DISLIKE)], [("c", CLICK), ("d", IMPRESSION)]]
    cases = cases_from_table(sequences(pages), CATALOGUE, TRAIN, max_history=9)
    anchors, offsets = anchors_of(cases.requests, cases.relevant_items, cases.relevant_offsets)
    assert (anchors.tolist(), offsets.tolist()) == ([0, 0, 2], [0, 1, 3])


def test_the_gate_lets_an_id_through_with_any_of_its_items():
    """Anchor a: cosines of a, b, c, d are 1, 0.6, 0, 0; the IDs are (a), (b), (c, d)."""
    cases = cases_from_table(sequences([[("a", CLICK)]]), CATALOGUE, TRAIN, max_history=9)

    class Numbers:
        name = "numbers"

        def score(self, requests, items_BK):
            return (items_BK / 4).astype(np.float32)

    gate = Gate(vectors_ND=torch.from_numpy(VECTORS_ND), threshold=0.5)
    judge = Judge(Numbers(), CATALOGUE, AlignConfig(), gate, np.ones(4))
    asked = (cases.requests, cases.relevant_items, cases.relevant_offsets, torch.tensor([[0, 1, 2, -1]]))
    reward_BX, open_BX = judge.judge(*asked)
    assert reward_BX.tolist() == [[0.0, 0.25, 0.75, 0.0]]
    assert open_BX.tolist() == [[True, True, False, False]]
    mean, _ = Judge(Numbers(), CATALOGUE, AlignConfig(sid_reward="mean"), None, np.ones(4)).judge(*asked)
    assert mean.tolist() == [[0.0, 0.25, 0.625, 0.0]]


@pytest.mark.parametrize(
    ("pages", "threshold"),
    [
        # exposed beside the anchor a: itself 1, b 0.6, c 0: half of the values lie at 0.6 or below
        ([[("a", CLICK), ("b", IMPRESSION), ("c", IMPRESSION)]], 0.6),
        # nothing but what was liked is known: b against a, then c against a and b
        ([[("a", CLICK)], [("b", CLICK)], [("c", CLICK)]], 0.6),
    ],
)
def test_the_threshold_is_a_quantile_of_what_was_exposed(tmp_path, pages, threshold):
    workspace = workspace_of(tmp_path, pages)
    cases = requests_from_sequences(workspace, CATALOGUE, TRAIN, max_history=9, columns=False)
    config, rng = AlignConfig(gate_quantile=0.5), np.random.default_rng(0)
    gate = make_gate(workspace, CATALOGUE, VECTORS_ND, cases, config, rng)
    assert gate.threshold == pytest.approx(threshold)
