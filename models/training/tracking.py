"""Experiment tracking with MLflow: parameters, metrics by step, artefacts, and where a run came from."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import logging
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from shlex import quote
from types import TracebackType
from typing import TYPE_CHECKING, Any

from features.secrets import without_passwords
from features.workspace import Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient

BATCH = 500
"""Metric values sent together; MLflow's limit for one request is 1000."""
SECONDS_BETWEEN_BATCHES = 10.0
"""Metric values are sent at the next step after so long, however few they are."""

_log = logging.getLogger(__name__)


def tracking_uri(workspace: Workspace) -> str:
    """Return the URI of the workspace's own MLflow store, an SQLite file.

    Example:
        >>> tracking_uri(Workspace("/data/shop"))
        'sqlite:////data/shop/mlflow.db'
    """
    return f"sqlite:///{workspace.local_path('mlflow.db')}"


def code_version() -> str:
    """Return the package version, with the commit where the code runs from a git checkout."""
    folder = Path(__file__).parent
    command = ["git", "-C", str(folder), "rev-parse", "--short=12", "HEAD"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return version("pagewise")
    commit = answer.stdout.strip()
    return f"{version('pagewise')}+{commit}" if answer.returncode == 0 and commit else version("pagewise")


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Join the keys of nested mappings with dots.

    Example:
        >>> flatten({"genrec": {"layers": 2}, "seed": 1})
        {'genrec.layers': 2, 'seed': 1}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


@dataclasses.dataclass
class Tracker:
    """One MLflow run, as a context manager; entering starts it, an exception marks it failed.

    Args:
        workspace: Holds the default store and the artefacts.
        experiment: Name of the experiment; made if need be.
        run_name: Name of the run.
        tags: Where the run comes from: data fingerprint, semantic-ID generation. The code version is added.
        uri: A tracking server; None for the workspace's own store.
        earlier_run: Id of a run to go on with, where the store still knows it.
    """

    workspace: Workspace
    experiment: str
    run_name: str
    tags: Mapping[str, str] = dataclasses.field(default_factory=dict)
    uri: str | None = None
    earlier_run: str | None = None

    def __enter__(self) -> Tracker:
        self._client = mlflow_client(self.uri or tracking_uri(self.workspace))
        self._pending: list[tuple[str, float, int, int]] = []
        self._limit, self._sent = BATCH, time.monotonic()
        self.run_id: str = self._reopened() or self._created()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()
        self._client.set_terminated(self.run_id, "FINISHED" if kind is None else "FAILED")

    def lines(self) -> list[str]:
        """Return how to look at the run."""
        uri = without_passwords(self.uri or tracking_uri(self.workspace))
        return [
            f"MLflow: {uri}, experiment {self.experiment}, run {self.run_id} "
            f"(`mlflow ui --backend-store-uri {quote(uri)}`)"
        ]

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Log a resolved configuration, nested keys joined with dots."""
        from mlflow.entities import Param

        flat = [Param(key, str(value)) for key, value in flatten(values).items()]
        for start in range(0, len(flat), 100):
            self._client.log_batch(self.run_id, params=flat[start : start + 100])

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Note metrics of a step; they are sent in batches, again with the next one where MLflow did not take them."""
        from mlflow.exceptions import MlflowException

        now = int(time.time() * 1000)
        self._pending += [(name, float(value), now, step) for name, value in values.items()]
        if len(self._pending) >= self._limit or time.monotonic() - self._sent > SECONDS_BETWEEN_BATCHES:
            try:
                self.flush()
            except MlflowException as error:
                # hours of training must not end because a server, or the lock of a file, is away for a moment
                _log.warning("MLflow did not take metrics up to step %d, training goes on: %s", step, error)
                self._limit, self._sent = len(self._pending) + BATCH, time.monotonic()

    def flush(self) -> None:
        """Send what is pending."""
        from mlflow.entities import Metric

        metrics = [Metric(*entry) for entry in self._pending]
        for start in range(0, len(metrics), BATCH):
            self._client.log_batch(self.run_id, metrics=metrics[start : start + BATCH])
        self._pending = []
        self._limit, self._sent = BATCH, time.monotonic()

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Copy a file, or the files of a folder, to the run's artefacts."""
        if path.is_dir():
            self._client.log_artifacts(self.run_id, str(path), folder)
        else:
            self._client.log_artifact(self.run_id, str(path), folder)

    def text(self, content: str, name: str) -> None:
        """Store a text as an artefact."""
        self._client.log_text(self.run_id, content, name)

    def _reopened(self) -> str | None:
        from mlflow.exceptions import MlflowException

        if self.earlier_run is None:
            return None
        try:
            self._client.update_run(self.earlier_run, status="RUNNING")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return self.earlier_run

    def _created(self) -> str:
        tags = {**self.tags, "code_version": code_version()}
        return str(self._client.create_run(self._experiment_id(), run_name=self.run_name, tags=tags).info.run_id)

    def _experiment_id(self) -> str:
        found = self._client.get_experiment_by_name(self.experiment)
        if found is not None:
            return str(found.experiment_id)
        artifacts = None if self.uri else self.workspace.local_path("mlartifacts").as_uri()
        return str(self._client.create_experiment(self.experiment, artifact_location=artifacts))


def mlflow_client(uri: str) -> MlflowClient:
    """Return a client; MLflow is imported, which takes seconds, with its telemetry off and its migrations silent."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    from mlflow import MlflowClient

    for name in ("alembic", "mlflow.store.db.utils", "mlflow.tracking"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if uri.startswith("sqlite:///"):
        _make_store(Path(uri.removeprefix("sqlite:///")))
    return MlflowClient(tracking_uri=uri)


def _make_store(path: Path) -> None:
    """Make an MLflow database where there is none, all of it or nothing.

    MLflow makes its tables one by one, which takes seconds, and refuses a database with some of them for ever: neither
    a killed process nor two that start together may leave one.
    """
    if path.exists():
        return
    from mlflow import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.parent):
        if path.exists():
            return
        for left in path.parent.glob(f".{path.name}.*"):
            shutil.rmtree(left)
        # a new name each time: MLflow remembers for the life of a process which databases it has made
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            complete = Path(folder, path.name)
            MlflowClient(tracking_uri=f"sqlite:///{complete}").search_experiments(max_results=1)
            complete.rename(path)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait for the lock of a folder and hold it; the operating system takes it back from a process that dies."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
