"""Everything that one process answers with, put together: releases, store, cursors, stream, page log."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path

from features.store.config import StoreConfig
from features.store.redis_store import RedisStore
from features.stream.config import StreamConfig
from features.stream.opening import open_stream
from models.recommend.release import Release
from models.recommend.release_manifest import ReleaseManifest
from models.registry import CHAMPION
from serving.arms import load_arms
from serving.backend import Backend
from serving.config import ServeConfig
from serving.cursors import Cursors
from serving.events import EventIntake
from serving.metrics import ServiceMetrics
from serving.page_log import PageLog
from serving.service import RecommendService
from serving.stage_names import Handle, stage_name, stage_replicas
from serving.stages import Split, Stage


def hurried(store: StoreConfig, config: ServeConfig) -> StoreConfig:
    """Return a store's options with which a read and its one repetition end well before the request's deadline."""
    return dataclasses.replace(store, timeout_s=min(store.timeout_s, config.request_timeout_s / 4))


def make_backend(
    release: Path,
    store_url: str,
    store_config: StoreConfig,
    stream_config: StreamConfig,
    config: ServeConfig,
    *,
    arm: str = CHAMPION,
    challenger: Path | None = None,
    stages: Mapping[str, Handle] | None = None,
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
        stages: Who answers for parts of the releases, by `stage_name`.

    Raises:
        FileNotFoundError: There is no release there.
        ReleaseError: It cannot be loaded.
        ValueError: The stream cannot be written from here.
    """
    part_timeout_s = min(config.part_timeout_s, config.request_timeout_s / 2)
    metrics, own_store = ServiceMetrics(), hurried(store_config, config)
    with contextlib.ExitStack() as opened:
        store = opened.enter_context(RedisStore(store_url, own_store))
        stream = opened.enter_context(open_stream(stream_config, store_url, own_store.namespace, own_store.timeout_s))
        page_log = PageLog(stream, metrics)
        opened.callback(page_log.close)
        cursors = Cursors(store.client, store.namespace, config.cursor_ttl_s)

        def make(loaded: Release, name: str) -> RecommendService:
            return RecommendService(
                loaded,
                store,
                history_length=own_store.history_length,
                arm=name,
                cursors=cursors,
                page_log=page_log,
                feature_share=config.feature_log_share,
                part_timeout_s=part_timeout_s,
                split=_split(loaded.manifest, stages or {}, config, part_timeout_s),
                metrics=metrics,
            )

        share, salt = config.challenger_share, config.challenger_salt
        arms = load_arms(release, challenger, make, arm=arm, share=share, salt=salt)
        intake = EventIntake(stream, metrics, future_minutes=stream_config.future_minutes)
        return Backend(arms, config, intake, on_close=opened.pop_all().close)


def _split(
    manifest: ReleaseManifest, handles: Mapping[str, Handle], config: ServeConfig, timeout_s: float
) -> Split | None:
    """Return what of a release is answered for by those that the handles lead to."""
    names = {stage: stage_name(stage, manifest.release_id) for stage in stage_replicas(config)}
    stages = {
        stage: Stage(handles[name], stage_replicas(config)[stage], timeout_s)
        for stage, name in names.items()
        if name in handles
    }
    return Split(manifest.runs, stages) if stages else None
