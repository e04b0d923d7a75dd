import logging

import pytest

from features.workspace import Workspace
from models.training.loop import train
from models.training.tracking import Tracker, code_version, mlflow_client, tracking_uri

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def mlflow_stores():
    """Here MLflow makes every one."""


@pytest.fixture(scope="module")
def finished(worker, tmp_path_factory):
    """A run that trained, and one that failed, in one workspace."""
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("tracked")
    workspace = Workspace(folder / "workspace")
    (folder / "plot.txt").write_text("plot")
    with Tracker(workspace, "genrec", "first", tags={"generation": "g1"}) as tracker:
        tracker.parameters({"genrec": {"layers": 2}, "seed": 1})
        train(worker.plain(), worker.Source(), worker.CONFIG, checkpoints=folder / "c", seed=1, tracker=tracker)
        tracker.artifact(folder / "plot.txt", "plots")
        tracker.text("a page", "pages/sample.txt")
    with pytest.raises(ZeroDivisionError), Tracker(workspace, "genrec", "second"):
        raise ZeroDivisionError
    return MlflowClient(tracking_uri=tracking_uri(workspace)), tracker, workspace


def test_a_run_says_where_it_came_from(finished):
    client, tracker, _ = finished
    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "first"
    assert run.data.tags["generation"] == "g1"
    assert run.data.tags["code_version"] == code_version()
    assert run.data.params == {"genrec.layers": "2", "seed": "1"}


def test_metrics_have_their_steps(finished):
    client, tracker, _ = finished
    history = client.get_metric_history(tracker.run_id, "loss")
    assert sorted(entry.step for entry in history) == list(range(1, 16))
    assert {"learning_rate", "examples_per_second", "gradient_norm", "absolute_error"} <= client.get_run(
        tracker.run_id
    ).data.metrics.keys()


def test_artefacts_lie_in_the_workspace(finished):
    _, tracker, workspace = finished
    assert [path.name for path in workspace.local_path("mlartifacts").rglob("plot.txt")] == ["plot.txt"]
    assert [path.read_text() for path in workspace.local_path("mlartifacts").rglob("sample.txt")] == ["a page"]
    assert f"sqlite:///{workspace.local_path('mlflow.db')}" in tracker.lines()[0]


def test_a_failed_run_is_marked_so(finished):
    client, _, _ = finished
    experiment = client.get_experiment_by_name("genrec")
    statuses = {run.info.run_name: run.info.status for run in client.search_runs([experiment.experiment_id])}
    assert statuses == {"first": "FINISHED", "second": "FAILED"}


def test_an_interrupted_run_is_gone_on_with(finished):
    client, tracker, workspace = finished
    with Tracker(workspace, "genrec", "first", earlier_run=tracker.run_id) as again:
        again.metrics({"loss": 0.5}, step=16)
        assert client.get_run(tracker.run_id).info.status == "RUNNING"
    assert again.run_id == tracker.run_id
    assert client.get_run(tracker.run_id).data.metrics["loss"] == 0.5
    with Tracker(workspace, "other", "third", earlier_run="0" * 32) as new:
        assert new.run_id not in (tracker.run_id, "0" * 32)


def test_metrics_that_mlflow_did_not_take_are_sent_again(finished, monkeypatch):
    from mlflow.exceptions import MlflowException

    client, _, workspace = finished
    monkeypatch.setattr("models.training.tracking.SECONDS_BETWEEN_BATCHES", -1.0)  # each step is sent at once

    def away(*_, **__):
        raise MlflowException("database is locked")

    with Tracker(workspace, "genrec", "patient") as tracker:
        tracker.metrics({"loss": 1.0}, step=0)
        with monkeypatch.context() as patch:
            patch.setattr(tracker._client, "log_batch", away)
            tracker.metrics({"loss": 2.0}, step=1)
        tracker.metrics({"loss": 3.0}, step=2)
    history = client.get_metric_history(tracker.run_id, "loss")
    assert sorted((entry.step, entry.value) for entry in history) == [(0, 1.0), (1, 2.0), (2, 3.0)]


def test_migrations_are_silent(finished):
    assert logging.getLogger("alembic").level == logging.ERROR


def test_a_store_whose_making_was_interrupted_is_made_anew(tmp_path, monkeypatch):
    import mlflow

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    uri = tracking_uri(Workspace(tmp_path / "workspace"))
    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "search_experiments", interrupted)
        with pytest.raises(KeyboardInterrupt):
            mlflow_client(uri)
    assert not (tmp_path / "workspace" / "mlflow.db").exists()
    (tmp_path / "workspace" / ".mlflow.db.killed").mkdir()
    assert [experiment.name for experiment in mlflow_client(uri).search_experiments()] == ["Default"]
    assert [path.name for path in (tmp_path / "workspace").iterdir()] == ["mlflow.db"]
