import dataclasses

import pytest

from models.genrec.config import GenRecConfig
from models.recommend.vector_index_config import IndexConfig
from models.training.config import TrainConfig
from models.two_tower.config import TwoTowerConfig
from pagewise.settings import Settings
from pipelines.jobs.checks import check_settings


def test_sections_that_do_not_fit_together_are_named_all_at_once() -> None:
    settings = Settings(
        two_tower=TwoTowerConfig(hidden=(32, 16)),
        two_tower_train=TrainConfig(monitor="auc"),
        train=TrainConfig(monitor="hr_at_50"),
        ranker_train=TrainConfig(monitor="logloss"),
        genrec=GenRecConfig(user_prefix=32),
        index=IndexConfig(kind="ivf_pq", pq_bytes=5),
    )
    with pytest.raises(ValueError, match="settings that do not fit together") as caught:
        check_settings(settings)
    assert [line.strip() for line in str(caught.value).splitlines()[1:]] == [
        "two_tower_train.monitor: expected one of hr_at_10, recall_at_10, ndcg_at_10, mrr_at_10, hr_at_50, "
        "recall_at_50, ndcg_at_50, mrr_at_50, got 'auc'",
        "train.monitor: expected one of hr_at_10, recall_at_10, ndcg_at_10, mrr_at_10, got 'hr_at_50'",
        "ranker_train.monitor: expected one of auc, auc_cart, auc_purchase, got 'logloss'",
        "genrec.user_prefix: expected 16, the last of two_tower.hidden, or 0 to go without, got 32",
        "index.pq_bytes: expected a divisor of 16, the last of two_tower.hidden, got 5",
    ]


def test_sections_that_fit() -> None:
    check_settings(Settings())
    fitting = Settings(genrec=GenRecConfig(user_prefix=TwoTowerConfig().hidden[-1]))
    check_settings(dataclasses.replace(fitting, index=IndexConfig(pq_bytes=5)))
