"""The Ray Serve application: pages in one deployment; models may have their own.

The service's main process describes it and loads no model: what answers is imported where it runs, by the replicas.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ray import serve
from ray.serve.handle import DeploymentHandle

from features.store.config import StoreConfig
from features.stream.config import StreamConfig
from models.recommend.release_manifest import read_manifest
from models.registry import CHALLENGER
from serving.config import ServeConfig
from serving.health import Drain
from serving.stage_names import STAGES, Handle, stage_name, stage_replicas
from serving.stages_replica import StageServed, build_stage

if TYPE_CHECKING:
    from fastapi import FastAPI

DEPLOYMENT = "pages"
PROBES = 32
"""Requests of health checks and of metrics at once, beside those of users."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Served:
    """What a replica needs to know; small and picklable.

    Attributes:
        release: Folder of the release.
        arm: See `RecommendService`.
        store_url: A Redis that stays up as long as the replica does.
        store: Namespace, history length and timeouts.
        serve: Batching and deadlines.
        folder: The service's own folder.
        stream: Where events and served pages go.
        challenger: Folder of the release that serves a share of the users (`serve.challenger_share`), if there is one.
    """

    release: Path
    arm: str
    store_url: str
    store: StoreConfig
    serve: ServeConfig
    folder: Path
    stream: StreamConfig = dataclasses.field(default_factory=StreamConfig)
    challenger: Path | None = None


class PagesReplica:
    """One process that answers requests; loads the release when it starts."""

    def __init__(self, served: Served, stages: Mapping[str, Handle]) -> None:
        import torch

        from serving.assembly import make_backend

        torch.set_num_threads(served.serve.threads)
        self._folder = served.folder
        self._backend = make_backend(
            served.release,
            served.store_url,
            served.store,
            served.stream,
            served.serve,
            arm=served.arm,
            challenger=served.challenger,
            stages=stages,
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the HTTP application (called by Ray Serve after the constructor)."""
        from serving.routes import build_api

        return build_api(self._backend, Drain(self._folder))


def build_stages(served: Served) -> dict[str, serve.Application]:
    """Return an application for each stage of each release that has models of it, by `stage_name`."""
    arms = [(served.release, served.arm)]
    if served.challenger is not None and served.serve.challenger_share > 0:
        arms.append((served.challenger, CHALLENGER))
    stages = {}
    for release, arm in arms:
        manifest = read_manifest(release)
        for stage in stage_replicas(served.serve):
            if not manifest.runs.keys().isdisjoint(STAGES[stage]):
                own = StageServed(
                    stage=stage,
                    release=release,
                    arm=arm,
                    store_url=served.store_url,
                    store=served.store,
                    serve=served.serve,
                )
                stages[stage_name(stage, manifest.release_id)] = build_stage(own, manifest.release_id)
    return stages


def build_application(
    served: Served, stages: Mapping[str, DeploymentHandle | serve.Application] | None = None
) -> serve.Application:
    """Return the application that `serve.run` takes.

    Args:
        served: What it serves.
        stages: The ways to the stages that run already, by `stage_name`; None makes them a part of the application.
    """
    config = served.serve
    deployment = serve.deployment(
        serve.ingress()(PagesReplica),
        name=DEPLOYMENT,
        num_replicas=config.replicas,
        max_surge_percent=100,  # another release starts beside this one, which answers until the other is loaded
        # the gate refuses first, and everybody who may ask how the service fares is let in beyond it
        max_ongoing_requests=config.max_in_flight + PROBES,
        # a release that cannot be loaded will not load better the third time
        max_constructor_retry_count=1,
        graceful_shutdown_timeout_s=config.request_timeout_s,
        ray_actor_options={"num_cpus": config.replica_cpus},
    )
    return deployment.bind(served, build_stages(served) if stages is None else dict(stages))
