"""Which models may have processes of their own, and what those are called; known without loading any of them."""

from __future__ import annotations

from typing import Any, Protocol

from models.recommend.ranked import GENREC, RANKER, TWO_TOWER
from serving.config import ServeConfig

RETRIEVAL, RANKING = "retrieval", "ranking"
STAGES = {RETRIEVAL: (GENREC, TWO_TOWER), RANKING: (RANKER,)}
"""The models of each stage."""


def stage_replicas(config: ServeConfig) -> dict[str, int]:
    """Return how many replicas each stage has; one that is not there is no stage of its own."""
    wanted = {RETRIEVAL: config.retrieval_replicas, RANKING: config.ranking_replicas}
    return {stage: replicas for stage, replicas in wanted.items() if replicas}


def stage_name(stage: str, release_id: str) -> str:
    """Return the name of a stage's deployment, of one release alone: a page is made with one release throughout."""
    return f"{stage}-{release_id}"


class Handle(Protocol):
    """The way to the replicas of a stage: `ray.serve.handle.DeploymentHandle`."""

    @property
    def retrieve(self) -> Any:
        """`serving.stages_replica.StageReplica.retrieve`; `remote` calls it."""
        ...

    @property
    def score(self) -> Any:
        """`serving.stages_replica.StageReplica.score`; `remote` calls it."""
        ...
