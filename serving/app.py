"""The Ray Serve application: release, store and page maker in one deployment, with batches across requests."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from fastapi import FastAPI
from ray import serve

from features.store.config import StoreConfig
from features.store.redis_store import RedisStore
from models.recommend.release import load_release
from serving.api import RecommendRequest, RecommendResponse
from serving.backend import Backend
from serving.config import ServeConfig
from serving.health import Drain
from serving.routes import build_api
from serving.service import RecommendService

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
    """

    release: Path
    arm: str
    store_url: str
    store: StoreConfig
    serve: ServeConfig
    folder: Path


class PagesReplica:
    """One process that answers requests; loads the release when it starts."""

    def __init__(self, served: Served) -> None:
        torch.set_num_threads(served.serve.threads)
        self._folder = served.folder
        # a read of the store and its one repetition end well before the request's deadline
        timeout_s = min(served.store.timeout_s, served.serve.request_timeout_s / 4)
        service = RecommendService(
            load_release(served.release),
            RedisStore(served.store_url, dataclasses.replace(served.store, timeout_s=timeout_s)),
            history_length=served.store.history_length,
            arm=served.arm,
        )
        self._batched.set_max_batch_size(served.serve.max_batch)
        self._batched.set_batch_wait_timeout_s(served.serve.batch_wait_ms / 1000)
        self._backend = Backend(service, served.serve, self._batched)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the HTTP application (called by Ray Serve after the constructor)."""
        return build_api(self._backend, Drain(self._folder))

    @serve.batch
    async def _batched(self, requests: list[RecommendRequest]) -> list[RecommendResponse]:
        return await self._backend.make_pages(requests)


def build_application(served: Served) -> serve.Application:
    """Return the application that `serve.run` takes."""
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
    return deployment.bind(served)
