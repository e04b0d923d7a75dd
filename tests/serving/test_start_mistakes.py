"""What is told before anything of the service is started."""

from __future__ import annotations

import sys

import pytest

from features.store.config import StoreConfig
from features.stream.config import StreamConfig
from features.workspace import Workspace
from serving.config import ServeConfig
from serving.run import start_background


def test_kafka_without_its_client_is_not_the_releases_fault(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    kafka = StreamConfig(source="kafka", servers="h:9092")
    with pytest.raises(ValueError, match=r"source=kafka: confluent_kafka is not installed; pip install -r infra/"):
        start_background(Workspace(tmp_path), tmp_path / "release", StoreConfig(), ServeConfig(), stream_config=kafka)
    assert not list(tmp_path.iterdir())
