"""The sections of the settings that the daily job reads."""

from __future__ import annotations

from typing import Protocol

from features.store.config import StoreConfig
from features.stream.config import StreamConfig
from models.alignment.config import AlignConfig
from models.genrec.config import DecodeConfig, GenRecConfig
from models.ranker.config import RankerConfig
from models.recommend.blend_config import BlendConfig
from models.recommend.config import RecommendConfig
from models.recommend.release_parts import ReleaseConfig
from models.recommend.vector_index_config import IndexConfig
from models.tokenizer.config import SemanticIdConfig
from models.training.config import TrainConfig
from models.two_tower.config import TwoTowerConfig
from pipelines.batch.config import BatchConfig
from pipelines.evaluation.config import EvaluateConfig
from pipelines.replay.config import ReplayConfig


class Tracking(Protocol):
    """Where MLflow is."""

    @property
    def uri(self) -> str | None:
        """A server or database, None for the workspace's own."""


class DailySettings(Protocol):
    """The sections of the settings that the daily job reads."""

    @property
    def seed(self) -> int: ...  # noqa: D102
    @property
    def batch(self) -> BatchConfig: ...  # noqa: D102
    @property
    def two_tower(self) -> TwoTowerConfig: ...  # noqa: D102
    @property
    def two_tower_train(self) -> TrainConfig: ...  # noqa: D102
    @property
    def index(self) -> IndexConfig: ...  # noqa: D102
    @property
    def semantic_ids(self) -> SemanticIdConfig: ...  # noqa: D102
    @property
    def genrec(self) -> GenRecConfig: ...  # noqa: D102
    @property
    def decode(self) -> DecodeConfig: ...  # noqa: D102
    @property
    def train(self) -> TrainConfig: ...  # noqa: D102
    @property
    def ranker(self) -> RankerConfig: ...  # noqa: D102
    @property
    def ranker_train(self) -> TrainConfig: ...  # noqa: D102
    @property
    def align(self) -> AlignConfig: ...  # noqa: D102
    @property
    def blend(self) -> BlendConfig: ...  # noqa: D102
    @property
    def evaluate(self) -> EvaluateConfig: ...  # noqa: D102
    @property
    def recommend(self) -> RecommendConfig: ...  # noqa: D102
    @property
    def store(self) -> StoreConfig: ...  # noqa: D102
    @property
    def stream(self) -> StreamConfig: ...  # noqa: D102
    @property
    def replay(self) -> ReplayConfig: ...  # noqa: D102
    @property
    def tracking(self) -> Tracking: ...  # noqa: D102


def answers_of(settings: DailySettings) -> ReleaseConfig:
    """Return what decides how a release answers; a release needs no file beside itself.

    Raises:
        FileNotFoundError: A boost's file of items is not there.
    """
    return ReleaseConfig(recommend=settings.recommend.self_contained(), decode=settings.decode, index=settings.index)
