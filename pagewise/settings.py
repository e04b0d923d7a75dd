"""All settings of Pagewise: one section per part, each the configuration class that lives beside that part."""

from __future__ import annotations

import dataclasses
from typing import Any

from features.store.config import StoreConfig
from features.stream.config import StreamConfig
from models.alignment.config import AlignConfig
from models.genrec.config import DecodeConfig, GenRecConfig
from models.ranker.config import RankerConfig
from models.recommend.blend_config import BlendConfig
from models.recommend.config import RecommendConfig
from models.recommend.vector_index_config import IndexConfig
from models.tokenizer.config import SemanticIdConfig
from models.training.config import TrainConfig
from models.two_tower.config import TwoTowerConfig
from pipelines.batch.config import BatchConfig
from pipelines.compression.config import CompareConfig
from pipelines.evaluation.config import EvaluateConfig
from pipelines.feature_check.config import FeatureCheckConfig
from pipelines.recommend.config import RecommendJobConfig
from pipelines.replay.config import ReplayConfig
from pipelines.simulator.config import SimulateConfig
from pipelines.studies.config import CurvesConfig, GenRecStudyConfig, SslStudyConfig
from serving.config import ServeConfig

RANKER_TRAIN: dict[str, Any] = {"monitor": "auc", "epochs": 3, "table_learning_rate": 0.002}
"""A ranker is best after few passes, and with tables that move slowly: it would learn its pages by heart."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where MLflow keeps runs and registered releases."""

    uri: str | None = None
    """An MLflow server or database; null for an SQLite file in the workspace."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that `--preset`, `--config` and `section.name=value` can set."""

    seed: int = 0
    """Every random choice follows from it through named streams."""
    simulate: SimulateConfig = dataclasses.field(default_factory=SimulateConfig)
    """The simulated marketplace."""
    batch: BatchConfig = dataclasses.field(default_factory=BatchConfig)
    """Events to pages, statistics, transitions and sequences."""
    two_tower: TwoTowerConfig = dataclasses.field(default_factory=TwoTowerConfig)
    """The self-supervised two-tower retriever."""
    two_tower_train: TrainConfig = dataclasses.field(default_factory=lambda: TrainConfig(epochs=3))
    """Its training loop."""
    index: IndexConfig = dataclasses.field(default_factory=IndexConfig)
    """The index over its item vectors."""
    semantic_ids: SemanticIdConfig = dataclasses.field(default_factory=SemanticIdConfig)
    """Items to semantic IDs."""
    genrec: GenRecConfig = dataclasses.field(default_factory=GenRecConfig)
    """The generative recommender."""
    decode: DecodeConfig = dataclasses.field(default_factory=DecodeConfig)
    """Its beam search."""
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    """Its training loop."""
    ranker: RankerConfig = dataclasses.field(default_factory=RankerConfig)
    """The unified-embedding ranker."""
    ranker_train: TrainConfig = dataclasses.field(default_factory=lambda: TrainConfig(**RANKER_TRAIN))
    """Its training loop."""
    align: AlignConfig = dataclasses.field(default_factory=AlignConfig)
    """GenRec's alignment with a ranker of earlier days, which `ranker` and `ranker_train` describe too."""
    blend: BlendConfig = dataclasses.field(default_factory=BlendConfig)
    """The fit of the learned fusion of all scores."""
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)
    """What is measured on which pages."""
    compare: CompareConfig = dataclasses.field(default_factory=CompareConfig)
    """The comparison of embedding methods."""
    ssl_study: SslStudyConfig = dataclasses.field(default_factory=SslStudyConfig)
    """The comparison of two-towers with and without self-supervision."""
    genrec_study: GenRecStudyConfig = dataclasses.field(default_factory=GenRecStudyConfig)
    """The comparison of GenRec's variants: objectives, merger, alignments."""
    curves: CurvesConfig = dataclasses.field(default_factory=CurvesConfig)
    """How good GenRec is for what it costs."""
    replay: ReplayConfig = dataclasses.field(default_factory=ReplayConfig)
    """The comparison of champion and challenger on logged pages, and what evidence a verdict needs."""
    recommend_job: RecommendJobConfig = dataclasses.field(default_factory=RecommendJobConfig)
    """Pages for all users in one batch."""
    recommend: RecommendConfig = dataclasses.field(default_factory=RecommendConfig)
    """From candidates to a page."""
    store: StoreConfig = dataclasses.field(default_factory=StoreConfig)
    """Online features."""
    stream: StreamConfig = dataclasses.field(default_factory=StreamConfig)
    """The event stream, and the pipeline that takes it up."""
    serve: ServeConfig = dataclasses.field(default_factory=ServeConfig)
    """The HTTP service."""
    feature_check: FeatureCheckConfig = dataclasses.field(default_factory=FeatureCheckConfig)
    """The nightly check of what the service read."""
    tracking: TrackingConfig = dataclasses.field(default_factory=TrackingConfig)
    """Experiment tracking."""
