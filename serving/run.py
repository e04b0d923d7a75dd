"""Starting and stopping the service on this machine: Redis, Ray, Serve."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # ray reads it when it is imported

import ray
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.schema import LoggingConfig

from features.store.config import StoreConfig
from features.store.embedded import EmbeddedRedis
from features.store.redis_store import RedisStore
from features.workspace import Workspace
from models.recommend.release import read_manifest
from serving.app import Served, build_application
from serving.config import ServeConfig

OBJECT_STORE_BYTES = 80 * 2**20
"""Requests and answers travel inside messages; Ray's default would take 30 % of the machine's memory."""
PROXY_SLACK_S = 5.0
"""The proxy gives up this long after the deadline at which the replica answers from the popular list."""
WATCH_S = 1.0
APPLICATION = "pagewise"


class ServiceError(RuntimeError):
    """The service did not start."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunningService:
    """A service that answers at `url` until `stop`.

    Attributes:
        url: `http://host:port`.
        release: Id of the release served.
    """

    url: str
    release: str
    _cleanup: contextlib.ExitStack = dataclasses.field(repr=False)
    _embedded: EmbeddedRedis | None = dataclasses.field(repr=False)

    def keep_redis_alive(self) -> None:
        """Start the embedded Redis again if it died; a Redis of somebody else is theirs to watch."""
        if self._embedded is not None:
            self._embedded.ensure_running()

    def stop(self) -> None:
        """Stop Serve, Ray and, if nobody else uses it, the embedded Redis; repeating it is harmless."""
        self._cleanup.close()

    def __enter__(self) -> RunningService:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()


def start_background(
    workspace: Workspace, release: Path, store_config: StoreConfig, serve_config: ServeConfig, *, arm: str = "champion"
) -> RunningService:
    """Start the service and return once it answers; one per process.

    Args:
        workspace: Its embedded Redis is used unless `store_config` names another.
        release: Folder of the release to serve.
        store_config: The online store.
        serve_config: The service.
        arm: Name logged with every page: the alias by which the release was found.

    Raises:
        FileNotFoundError: There is no release there.
        StoreUnavailableError: The online store does not answer.
        ValueError: The port is taken.
        ServiceError: The replica did not start; its reason is in the message.
    """
    manifest = read_manifest(release)
    port = _free_port(serve_config.host, serve_config.port)
    with contextlib.ExitStack() as cleanup:
        embedded = None
        if store_config.url is None:
            embedded = cleanup.enter_context(EmbeddedRedis(workspace.local_path("store")))
        store_url = store_config.url or (embedded.url if embedded else "")
        with RedisStore(store_url, store_config) as store:
            store.ping()
        _start_ray(cleanup, serve_config, port)
        served = Served(
            release=release.absolute(), arm=arm, store_url=store_url, store=store_config, serve=serve_config
        )
        try:
            serve.run(build_application(served), name=APPLICATION, logging_config=_quiet())
        except RuntimeError as error:
            raise ServiceError(f"release {release} could not be served: {error}") from error
        return RunningService(
            url=f"http://{serve_config.host}:{port}",
            release=manifest.release_id,
            _cleanup=cleanup.pop_all(),
            _embedded=embedded,
        )


def serve_forever(
    workspace: Workspace,
    release: Path,
    store_config: StoreConfig,
    serve_config: ServeConfig,
    *,
    arm: str = "champion",
    ready: Callable[[RunningService], None],
) -> None:
    """Serve until Ctrl-C or SIGTERM; errors as in `start_background`.

    Args:
        workspace: See `start_background`.
        release: See `start_background`.
        store_config: See `start_background`.
        serve_config: See `start_background`.
        arm: See `start_background`.
        ready: Called once the service answers.
    """
    stopping = threading.Event()
    with start_background(workspace, release, store_config, serve_config, arm=arm) as service:
        # after ray.init, which puts its own handler there
        signals = (signal.SIGINT, signal.SIGTERM)
        previous = {number: signal.signal(number, lambda *_: stopping.set()) for number in signals}
        try:
            ready(service)
            while not stopping.wait(WATCH_S):
                service.keep_redis_alive()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _start_ray(cleanup: contextlib.ExitStack, config: ServeConfig, port: int) -> None:
    if ray.is_initialized():
        raise ServiceError("this process runs Ray already; stop the other service first, or use another process")
    folder = tempfile.mkdtemp(prefix="pw-", dir="/tmp")  # paths of Ray's sockets must stay below 107 bytes
    cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
    cleanup.callback(ray.shutdown)
    ray.init(
        address="local",
        num_cpus=max(1, math.ceil(config.replica_cpus)),
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _temp_dir=folder,
    )
    cleanup.callback(_stop_serving)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(
        http_options=HTTPOptions(
            host=config.host, port=port, request_timeout_s=config.request_timeout_s + PROXY_SLACK_S
        ),
        logging_config=_quiet(),
    )


def _stop_serving() -> None:
    """Let requests in flight end; Ray's own end takes care of the rest (`serve.shutdown` would print false alarms)."""
    if serve.status().applications:
        serve.delete(APPLICATION)


def _quiet() -> LoggingConfig:
    return LoggingConfig(log_level="WARNING", enable_access_log=False)


def _free_port(host: str, port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ValueError(
                f"serve: cannot listen on {host}:{port}: {error.strerror}; stop what listens there, or set serve.port"
            ) from error
        return int(probe.getsockname()[1])
