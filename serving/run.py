"""Starting and stopping the service on this machine: Redis, Ray, Serve."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# ray reads these when it is imported
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")  # on a busy machine its 5 s kill what still starts

import ray
from ray import serve
from ray.serve.config import HTTPOptions

from features.store.config import StoreConfig
from features.store.embedded import EmbeddedRedis
from features.store.redis_store import RedisStore
from features.stream.config import StreamConfig
from features.stream.opening import require_client
from features.workspace import Workspace
from models.recommend.release_manifest import check_files, read_manifest
from serving.access import Keys
from serving.app import Served
from serving.config import ServeConfig
from serving.folders import take_folder
from serving.gate import ENVIRONMENT, GateSettings
from serving.haproxy import answer_in_json, haproxy_environment
from serving.health import Drain
from serving.metrics import SHARED_FOLDER, count_refused_release
from serving.stage_names import stage_replicas
from serving.stages_deployment import ServiceError, deploy, quiet, undeploy

OBJECT_STORE_BYTES = 80 * 2**20
"""Requests and answers travel inside messages; Ray's default would take 30 % of the machine's memory."""
PROXY_SLACK_S = 5.0
"""The proxy gives up this long after the deadline at which the replica answers from the popular list: the gate has
answered by then."""
WATCH_S = 1.0
DEFAULT_STREAM = StreamConfig()

_log = logging.getLogger(__name__)


class RunningService:
    """A service that answers at `url` until `stop`.

    Attributes:
        url: `http://host:port`.
        release: Id of the release served.
        challenger: Id of the release that a share of the users is served by instead, None for none.
    """

    def __init__(self, url: str, served: Served, cleanup: contextlib.ExitStack, embedded: EmbeddedRedis | None) -> None:
        self.url = url
        self.release = read_manifest(served.release).release_id
        self.challenger = _id(served.challenger)
        self._served = served
        self._cleanup = cleanup
        self._embedded = embedded

    def swap(self, release: Path, challenger: Path | None = None) -> None:
        """Serve other releases from now on; the old ones answer until the new ones are loaded.

        Args:
            release: Folder of the release.
            challenger: Of the one that serves a share of the users; without it, they get the other one.

        Raises:
            FileNotFoundError: There is no release there.
            ReleaseError: A file of it is missing or damaged; nothing was started, the old one stays.
            ServiceError: It cannot be loaded; the old one stays.
        """
        manifest, other = read_manifest(release), None if challenger is None else challenger.absolute()
        check_files(release, manifest)
        deploy(dataclasses.replace(self._served, release=release.absolute(), challenger=other))
        self.release, self.challenger = manifest.release_id, _id(other)

    def count_refusal(self) -> None:
        """Count, for `/metrics`, a release that was to be served and could not be."""
        count_refused_release(_metrics_folder(self._served.folder))

    def keep_redis_alive(self) -> None:
        """Start the embedded Redis again if it died and can; a Redis of somebody else is theirs to watch."""
        if self._embedded is not None:
            self._embedded.revive()

    def stop(self) -> None:
        """Stop Serve, Ray and, if nobody else uses it, the embedded Redis; repeating it is harmless."""
        self._cleanup.close()

    def __enter__(self) -> RunningService:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()


def start_background(
    workspace: Workspace,
    release: Path,
    store_config: StoreConfig,
    serve_config: ServeConfig,
    *,
    stream_config: StreamConfig = DEFAULT_STREAM,
    arm: str = "champion",
    challenger: Path | None = None,
) -> RunningService:
    """Start the service and return once it answers; one per process.

    Args:
        workspace: Its embedded Redis is used unless `store_config` names another.
        release: Folder of the release to serve.
        store_config: The online store.
        serve_config: The service.
        stream_config: Where events and served pages go.
        arm: Name logged with every page: the alias by which the release was found.
        challenger: Folder of the release that serves a share of the users (`serve.challenger_share`); None for none.

    Raises:
        FileNotFoundError: There is no release there, or no file of API keys.
        StoreUnavailableError: The online store does not answer.
        ValueError: The port is taken, the file of API keys holds something else, or Kafka's client is not installed.
        ServiceError: The replica did not start; its reason is in the message.
    """
    require_client(stream_config)
    read_manifest(release)
    Keys.of(serve_config.keys_file)
    _free_port(serve_config.host, serve_config.port)  # a port that is taken is told before anything is started
    with contextlib.ExitStack() as cleanup:
        embedded = None
        if store_config.url is None:
            embedded = cleanup.enter_context(EmbeddedRedis(workspace.local_path("store"), store_config.durability))
        store_url = store_config.url or (embedded.url if embedded else "")
        with RedisStore(store_url, store_config) as store:
            store.ping()
        folder = take_folder(cleanup)
        port = _start_ray(cleanup, serve_config, folder)
        served = Served(
            release=release.absolute(),
            arm=arm,
            store_url=store_url,
            store=store_config,
            serve=serve_config,
            folder=folder,
            stream=stream_config,
            challenger=None if challenger is None else challenger.absolute(),
        )
        deploy(served)
        return RunningService(f"http://{serve_config.host}:{port}", served, cleanup.pop_all(), embedded)


def serve_forever(
    workspace: Workspace,
    release: Path,
    store_config: StoreConfig,
    serve_config: ServeConfig,
    *,
    stream_config: StreamConfig = DEFAULT_STREAM,
    arm: str = "champion",
    ready: Callable[[RunningService], None],
    current: Callable[[], Path] | None = None,
    challenger: Callable[[], Path | None] = lambda: None,
    progress: Callable[[str], None] = lambda line: None,
) -> None:
    """Serve until Ctrl-C or SIGTERM; errors as in `start_background`.

    Args:
        workspace: See `start_background`.
        release: See `start_background`.
        store_config: See `start_background`.
        serve_config: See `start_background`.
        stream_config: See `start_background`.
        arm: See `start_background`.
        ready: Called once the service answers.
        current: Asked every `refresh_s` for the release to serve by now; None stays with the first.
        challenger: Asked likewise, and at the start, for the release that a share of the users is to get.
        progress: Told of releases that are taken up, or refused.
    """
    stopping = threading.Event()
    with start_background(
        workspace, release, store_config, serve_config, stream_config=stream_config, arm=arm, challenger=challenger()
    ) as service:
        # after ray.init, which puts its own handler there
        signals = (signal.SIGINT, signal.SIGTERM)
        previous = {number: signal.signal(number, lambda *_: stopping.set()) for number in signals}
        try:
            ready(service)
            asked, refused = time.monotonic(), set[tuple[Path, Path | None]]()
            while not stopping.wait(WATCH_S):
                service.keep_redis_alive()
                if current is not None and time.monotonic() - asked > serve_config.refresh_s:
                    _follow(service, current, challenger, refused, progress)
                    asked = time.monotonic()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _start_ray(cleanup: contextlib.ExitStack, config: ServeConfig, folder: Path) -> int:
    """Start Ray and its proxy; return the port that it listens on."""
    if ray.is_initialized():
        raise ServiceError("this process runs Ray already; stop the other service first, or use another process")
    cleanup.callback(ray.shutdown)
    with _environment(config, folder):
        ray.init(
            address="local",
            num_cpus=_cpus(config),
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=str(folder / "r"),  # Ray opens its own folder to everybody, the one around it stays closed
        )
    cleanup.callback(_stop_serving, Drain(folder))
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    # Ray's own processes take free ports while they start: one that was chosen before may be theirs by now
    port = _free_port(config.host, config.port)
    serve.start(
        http_options=HTTPOptions(
            host=config.host, port=port, request_timeout_s=config.request_timeout_s + PROXY_SLACK_S
        ),
        logging_config=quiet(),
    )
    if config.haproxy:
        answer_in_json(folder)
    return port


@contextlib.contextmanager
def _environment(config: ServeConfig, folder: Path) -> Iterator[None]:
    """Tell the processes that Ray starts meanwhile where the gate is and where metrics are kept."""
    metrics = _metrics_folder(folder)
    metrics.mkdir()
    told = {
        SHARED_FOLDER: str(metrics),
        ENVIRONMENT: GateSettings(serve=config, folder=folder, per_replica=config.haproxy).to_json(),
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serving.gate:middlewares",
        "RAY_worker_niceness": "0",  # Ray's 15 lets everything else on the machine go before whoever waits for a page
    }
    if stage_replicas(config):
        # threads wait for stages, whatever loop the replica's own code runs in
        told["RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP"] = "1"
    if config.haproxy:
        told |= haproxy_environment(folder, _free_port("0.0.0.0", 0), _free_port("0.0.0.0", 0))
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _metrics_folder(folder: Path) -> Path:
    return folder / "metrics"


def _follow(
    service: RunningService,
    current: Callable[[], Path],
    challenger: Callable[[], Path | None],
    refused: set[tuple[Path, Path | None]],
    progress: Callable[[str], None],
) -> None:
    """Swap releases if there are others to serve; whatever goes wrong, the present ones are served on."""
    try:
        wanted = current(), challenger()
        ids = read_manifest(wanted[0]).release_id, _id(wanted[1])
    except Exception:  # the watch that calls this must not end
        _log.exception("release %s is served on: what to serve is not known", service.release)
        return
    if wanted in refused or ids == (service.release, service.challenger):
        return
    try:
        progress(f"starting {_named(*ids)} beside {_named(service.release, service.challenger)}")
        service.swap(*wanted)
        progress(f"serving {_named(*ids)}")
    except Exception as error:  # likewise
        refused.add(wanted)  # what cannot be loaded is not tried again and again
        service.count_refusal()
        _log.exception("release %s is served on", service.release)
        progress(f"refused {_named(*ids)}: {error}; {_named(service.release, service.challenger)} is served on")


def _named(release: str, challenger: str | None) -> str:
    return f"release {release}" + ("" if challenger is None else f", challenger {challenger}")


def _id(release: Path | None) -> str | None:
    return None if release is None else read_manifest(release).release_id


def _stop_serving(drain: Drain) -> None:
    """Let requests in flight end; Ray's own end takes care of the rest (`serve.shutdown` would print false alarms)."""
    drain.begin()
    undeploy()


def _cpus(config: ServeConfig) -> int:
    """Return the CPUs that Ray must believe in: twice those of a release, which is swapped beside the old one."""
    arms = 2 if config.challenger_share > 0 else 1
    stages = arms * sum(stage_replicas(config).values()) * config.stage_cpus
    return math.ceil(2 * (config.replicas * config.replica_cpus + stages))


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
