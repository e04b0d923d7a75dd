"""The application for Ray Serve's config files (`serve deploy`, KubeRay's RayService), where Ray runs already.

`infra/kubernetes/serve.yaml` uses it. The gate before the replicas and the metrics that processes share are told by
the environment of Ray's processes (`serving.gate`, `serving.metrics`), which `serving.run` sets on one machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from ray import serve

from features.store.config import StoreConfig
from features.stream.config import StreamConfig
from features.workspace import Workspace
from models.registry import CHAMPION, Registry
from serving.app import Served, build_application
from serving.config import ServeConfig


class ClusterArguments(BaseModel):
    """The `args` of the application."""

    model_config = ConfigDict(extra="forbid")

    workspace: Path
    """Folder that all nodes see; releases lie in it."""
    folder: Path
    """Folder of each node's own, for the mark that it drains."""
    tracking_uri: str
    """The MLflow server that knows the champion."""
    alias: str = CHAMPION
    """Of the release to serve."""
    store: dict[str, Any]
    """Settings of the section `store`; `url` is needed."""
    serve: dict[str, Any] = {}
    """Settings of the section `serve`."""
    stream: dict[str, Any] = {}
    """Settings of the section `stream`."""


def application(arguments: ClusterArguments) -> serve.Application:
    """Return the application that serves what the alias names now; deploying it again follows the alias.

    Raises:
        RegistryError: Nothing has this alias.
        ValueError: The store has no URL.
    """
    store = StoreConfig(**arguments.store)
    if store.url is None:
        raise ValueError("store.url: expected the URL of a Redis that all nodes reach, got none")
    release = Registry(Workspace(arguments.workspace), arguments.tracking_uri).resolve(arguments.alias)
    return build_application(
        Served(
            release=release,
            arm=arguments.alias,
            store_url=store.url,
            store=store,
            serve=ServeConfig(**arguments.serve),
            folder=arguments.folder,
            stream=StreamConfig(**arguments.stream),
        )
    )
