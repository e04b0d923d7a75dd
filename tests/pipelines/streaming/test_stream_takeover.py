"""A process that stood still for so long that another one took over, and that then goes on."""

from __future__ import annotations

from typing import Any

import pytest
from stream_world import append, counts, logged, messages, store_config, take_up, totals

from features.store.base import LeaseLostError
from features.store.redis_store import RedisStore
from features.stream.config import StreamConfig
from features.stream.opening import open_stream
from features.stream.records import EVENTS
from features.workspace import Workspace
from pipelines.batch.config import PagesConfig
from pipelines.streaming import transforms
from pipelines.streaming.driver import StreamDriver
from pipelines.streaming.folding import Folding, fold_user_shard
from pipelines.streaming.metrics import StreamMetrics
from pipelines.streaming.online import online_config

pytestmark = pytest.mark.integration


class Lease:
    """Somebody else's, once `lost`."""

    lost = False

    def check(self) -> None:
        if self.lost:
            raise LeaseLostError("somebody else has it")


def test_who_lost_the_lease_amid_a_range_writes_nothing_over_what_the_next_one_wrote(
    tmp_path, redis_url, request, monkeypatch
) -> None:
    namespace, config, lease = request.node.name[:40], StreamConfig(shards=2), Lease()
    append(redis_url, namespace, messages())
    store_options = store_config(redis_url, namespace)
    folds = 0

    def standing_still(*arguments: Any) -> Any:
        nonlocal folds
        folds += 1
        if folds == 2:  # one shard is folded, the other is not
            lease.lost = True
            append(redis_url, namespace, messages(seed=1))  # so that the other one gets further than this range
            take_up(tmp_path, redis_url, namespace)
        return fold_user_shard(*arguments)

    monkeypatch.setattr(transforms, "fold_user_shard", standing_still)
    with RedisStore(redis_url, store_options) as store, open_stream(config, redis_url, namespace) as stream:
        online = online_config(config, PagesConfig(), store_options)
        folding = Folding(store_url=redis_url, store=store_options, stream=config, online=online)
        driver = StreamDriver(Workspace(tmp_path), store, stream, folding, lease, StreamMetrics(), lambda: None)  # type: ignore[arg-type]
        with pytest.raises(LeaseLostError):
            driver.step()
    assert folds > 2
    rows, found = logged(tmp_path)["event_log"], counts(tmp_path)
    assert len(rows) == found["events.logged"] > 0
    assert len({*(value for _, value in totals(found, EVENTS))}) == 1
