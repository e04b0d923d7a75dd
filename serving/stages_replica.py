"""One process of a stage: loads a release, keeps the stage's models of it, and answers for them.

As in `serving.app`, what answers is imported by the replica alone.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ray import serve

from features.store.config import StoreConfig
from features.store.redis_store import RedisStore
from serving.config import ServeConfig
from serving.stage_names import STAGES, stage_name, stage_replicas

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from models.recommend.interface import Candidates, RequestBatch
    from models.recommend.recommender import Recommender
    from serving.stages import Parcel

ONGOING = 2
"""Calls in one replica at once, one of them computed and one at hand: more would wait there while others are free."""

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageServed:
    """What a replica of a stage needs to know; small and picklable.

    Attributes:
        stage: One of `STAGES`.
        release: Folder of the release.
        arm: Name of its arm.
        store_url: A Redis that stays up as long as the replica does.
        store: Namespace and timeouts.
        serve: Threads, and how often to look for newer items.
    """

    stage: str
    release: Path
    arm: str
    store_url: str
    store: StoreConfig
    serve: ServeConfig


class StageReplica:
    """Answers for the models of a stage, one call after the other; follows store and deltas as pages do."""

    def __init__(self, served: StageServed) -> None:
        import torch

        from models.recommend.release import load_release
        from serving.assembly import hurried
        from serving.backend import Backend
        from serving.service import RecommendService
        from serving.stages import Unpacking, with_only

        torch.set_num_threads(served.serve.threads)
        loaded = load_release(served.release)
        kept = dataclasses.replace(loaded, recommender=with_only(loaded.recommender, STAGES[served.stage]))
        store = RedisStore(served.store_url, hurried(served.store, served.serve))
        self._service = RecommendService(kept, store, history_length=served.store.history_length, arm=served.arm)
        self._backend = Backend(self._service, served.serve, on_close=store.close)
        self._models = ThreadPoolExecutor(1, thread_name_prefix="models")
        self._unpacked = Unpacking(len(kept.recommender.catalogue))
        self._refreshing = asyncio.get_running_loop().create_task(self._backend.refresh_forever())

    async def retrieve(self, name: str, parcel: Parcel, k: int) -> Candidates:
        """See `models.recommend.interface.Retriever`.

        Args:
            name: Of the retriever.
            parcel: `B` requests.
            k: Candidates per request.
        """
        return await self._answer(parcel, lambda maker, requests: maker.retrievers[name].retrieve(requests, k))

    async def score(self, parcel: Parcel, items_BK: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """See `models.recommend.interface.Ranker`."""

        def scored(maker: Recommender, requests: RequestBatch) -> npt.NDArray[np.float32]:
            assert maker.ranker is not None, "a stage of rankers has one"
            return maker.ranker.score(requests, items_BK)

        return await self._answer(parcel, scored)

    async def _answer(self, parcel: Parcel, call: Callable[[Recommender, RequestBatch], Result]) -> Result:
        """Compute an answer, after taking the deltas that the sender knows already.

        Raises:
            ValueError: The deltas are not there, or cannot be used.
        """
        if len(self._service.release.recommender.catalogue) < parcel.items:
            await self._backend.follow_deltas()
        maker = self._service.release.recommender
        items = len(maker.catalogue)
        if items < parcel.items:
            raise ValueError(
                f"expected a catalogue of at least {parcel.items} items, as the sender has, got {items}; all nodes "
                "must see the same folder of releases"
            )
        return await asyncio.get_running_loop().run_in_executor(
            self._models, lambda: call(maker, self._unpacked(parcel, items))
        )


def build_stage(served: StageServed, release_id: str) -> serve.Application:
    """Return the application of one stage of one release."""
    config = served.serve
    replicas = stage_replicas(config)[served.stage]
    deployment = serve.deployment(
        StageReplica,
        name=stage_name(served.stage, release_id),
        num_replicas=replicas,
        max_ongoing_requests=ONGOING,
        # of each who asks: one call per model and replica, and as many that are given up and not yet gone
        max_queued_requests=2 * replicas * len(STAGES[served.stage]),
        max_constructor_retry_count=1,
        graceful_shutdown_timeout_s=config.request_timeout_s,
        ray_actor_options={"num_cpus": config.stage_cpus},
    )
    return deployment.bind(served)
