"""The Ray Serve application: release, store and page maker in one deployment, with batches across requests."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from fastapi import FastAPI
from ray import serve

from features.store.config import StoreConfig
from features.stream.config import StreamConfig
from serving.api import ApiError, RecommendRequest
from serving.assembly import make_backend
from serving.config import ServeConfig
from serving.health import Drain
from serving.pages import Answer
from serving.routes import build_api

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

    def __init__(self, served: Served) -> None:
        torch.set_num_threads(served.serve.threads)
        self._folder = served.folder
        self._batched.set_max_batch_size(served.serve.max_batch)
        self._batched.set_batch_wait_timeout_s(served.serve.batch_wait_ms / 1000)
        self._backend = make_backend(
            served.release,
            served.store_url,
            served.store,
            served.stream,
            served.serve,
            arm=served.arm,
            challenger=served.challenger,
            enqueue=self._batched,
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the HTTP application (called by Ray Serve after the constructor)."""
        return build_api(self._backend, Drain(self._folder))

    @serve.batch
    async def _batched(self, requests: list[RecommendRequest]) -> list[Answer | ApiError]:
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
