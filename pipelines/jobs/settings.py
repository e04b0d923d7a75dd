"""The sections of the settings that the daily job reads."""

from __future__ import annotations

from typing import Protocol

from features.store.config import StoreConfig
from models.genrec.config import DecodeConfig, GenRecConfig
from models.recommend.config import RecommendConfig
from models.tokenizer.config import SemanticIdConfig
from models.training.config import TrainConfig
from pipelines.batch.config import BatchConfig
from pipelines.evaluation.config import EvaluateConfig


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
    def semantic_ids(self) -> SemanticIdConfig: ...  # noqa: D102
    @property
    def genrec(self) -> GenRecConfig: ...  # noqa: D102
    @property
    def decode(self) -> DecodeConfig: ...  # noqa: D102
    @property
    def train(self) -> TrainConfig: ...  # noqa: D102
    @property
    def evaluate(self) -> EvaluateConfig: ...  # noqa: D102
    @property
    def recommend(self) -> RecommendConfig: ...  # noqa: D102
    @property
    def store(self) -> StoreConfig: ...  # noqa: D102
    @property
    def tracking(self) -> Tracking: ...  # noqa: D102
