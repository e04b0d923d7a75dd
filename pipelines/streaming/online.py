"""How a stream folds: as stream, batch pipelines and store are configured; imports nothing heavy."""

from __future__ import annotations

from features.online.config import OnlineConfig
from features.store.config import StoreConfig
from features.stream.config import StreamConfig
from pipelines.batch.config import PagesConfig


def online_config(stream: StreamConfig, pages: PagesConfig, store: StoreConfig) -> OnlineConfig:
    """Return the options of the online folds: those of the stream, the batch pipelines and the store."""
    return OnlineConfig(
        lateness_hours=stream.lateness_hours,
        gap_minutes=pages.gap_minutes,
        cap=pages.cap,
        history_length=store.history_length,
    )
