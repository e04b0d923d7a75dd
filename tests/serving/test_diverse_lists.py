"""Lists under boosts, caps and diversity: later pages keep apart from earlier ones, each can be judged by its row."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from models.recommend.config import RecommendConfig
from models.recommend.diversity import similarity, weight_of
from models.recommend.recommender import Recommender
from serving.api import RecommendRequest
from serving.pages import Answer
from serving.service import RecommendService

DIVERSITY = 0.4
BOOSTS = ({"category": "aisle0", "factor": 1.5}, {"items": ["i03"], "addend": 0.1})


class Rows(list):
    """A page log that remembers."""

    add = list.append


@pytest.fixture
def log() -> Rows:
    return Rows()


@pytest.fixture
def service(release, store, cursors, log) -> RecommendService:
    base = release.recommender
    parts = [part for name, part in base.retrievers.items() if name != "genrec"]
    config = RecommendConfig(
        epsilon=0.3,
        temperature=0.1,
        page_size=3,
        genrec_weight=0.0,
        max_per_category=2,
        diversity=DIVERSITY,
        boosts=BOOSTS,
    )
    served = dataclasses.replace(release, recommender=Recommender(base.catalogue, parts, config, base.facts))
    return RecommendService(served, store, history_length=50, arm="a", cursors=cursors, page_log=log)


def test_every_page_of_a_list_can_be_judged_by_its_own_row(service, log):
    maker = service._served.maker
    catalogue = maker.catalogue
    for _ in range(10):
        cursor, shown = None, list[str]()
        while True:
            (answer,) = service.recommend([RecommendRequest(user_id="nobody", cursor=cursor)])
            assert isinstance(answer, Answer)
            if answer.row is not None:  # later pages are logged when they are kept
                service.log(answer.row)
            for item in answer.page.items:
                assert sum(item.parts.values()) == pytest.approx(item.score)
                codes_L = catalogue.codes_NL[catalogue.numbers([item.item_id])[0]]
                near = similarity(catalogue.codes_NL[catalogue.numbers(shown)], codes_L).max(initial=0.0)
                assert item.parts.get("diversity", 0.0) == pytest.approx(-weight_of(DIVERSITY) * near)
            shown += [item.item_id for item in answer.page.items]
            cursor = answer.page.next_cursor
            if cursor is None:
                break
        assert len(set(shown)) == len(shown) == 12
    assert len(log) > 10
    for row in log:
        items_BF = catalogue.numbers(row["candidates"])[None]
        scores_BF = np.array([row["candidate_scores"]], np.float32)
        chosen_BP = np.array([[row["candidates"].index(item) for item in row["items"]]])
        there_BF = np.ones(items_BF.shape, bool)
        log_P = maker.policy.log_prob(scores_BF, there_BF, chosen_BP, *maker.traits(items_BF))[0]
        np.testing.assert_allclose(np.exp(log_P), row["propensities"])
        assert row["policy"] == "epsilon=0.3,temperature=0.1,category<=2,diversity=0.4"
