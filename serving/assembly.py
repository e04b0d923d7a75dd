"""Everything that one process answers with, put together: releases, store, cursors, stream, page log."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

from features.store.config import StoreConfig
from features.store.redis_store import RedisStore
from features.stream.config import StreamConfig
from features.stream.opening import open_stream
from models.recommend.release import Release
from serving.arms import CHAMPION, load_arms
from serving.backend import Backend, Enqueue
from serving.config import ServeConfig
from serving.cursors import Cursors
from serving.events import EventIntake
from serving.metrics import ServiceMetrics
from serving.page_log import PageLog
from serving.service import RecommendService


def make_backend(
    release: Path,
    store_url: str,
    store_config: StoreConfig,
    stream_config: StreamConfig,
    config: ServeConfig,
    *,
    arm: str = CHAMPION,
    challenger: Path | None = None,
    enqueue: Enqueue | None = None,
) -> Backend:
    """Load the releases and connect everything; the backend's `close` lets go of it.

    Args:
        release: Folder of the release.
        store_url: A Redis that stays up meanwhile.
        store_config: Namespace, history length and timeouts.
        stream_config: Where events and served pages go.
        config: Deadlines, and the challenger's share.
        arm: Name of the release's arm.
        challenger: Folder of the release that serves `config.challenger_share` of the users; None for none.
        enqueue: See `Backend`.

    Raises:
        FileNotFoundError: There is no release there.
        ReleaseError: It cannot be loaded.
        ValueError: The stream cannot be written from here.
    """
    # a read of the store and its one repetition end well before the request's deadline
    timeout_s = min(store_config.timeout_s, config.request_timeout_s / 4)
    metrics, history_length = ServiceMetrics(), store_config.history_length
    with contextlib.ExitStack() as opened:
        store = opened.enter_context(RedisStore(store_url, dataclasses.replace(store_config, timeout_s=timeout_s)))
        stream = opened.enter_context(open_stream(stream_config, store_url, store_config.namespace, timeout_s))
        page_log = PageLog(stream, metrics)
        opened.callback(page_log.close)
        cursors = Cursors(store.client, store.namespace, config.cursor_ttl_s)

        def make(loaded: Release, name: str) -> RecommendService:
            return RecommendService(
                loaded,
                store,
                history_length=history_length,
                arm=name,
                cursors=cursors,
                page_log=page_log,
                feature_share=config.feature_log_share,
                part_timeout_s=min(config.part_timeout_s, config.request_timeout_s / 2),
                metrics=metrics,
            )

        share, salt = config.challenger_share, config.challenger_salt
        arms = load_arms(release, challenger, make, arm=arm, share=share, salt=salt)
        intake = EventIntake(stream, metrics, future_minutes=stream_config.future_minutes)
        return Backend(arms, config, enqueue, intake, on_close=opened.pop_all().close)
