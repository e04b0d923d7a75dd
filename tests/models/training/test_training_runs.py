import dataclasses
import json

import pytest
import torch

from features.workspace import MANIFEST, Workspace
from models.training.export import load_weights
from models.training.position import TrainReport
from models.training.publish import train_and_publish
from models.training.runs import LATEST, WEIGHTS, MissingRunError, Runs

REPORT = TrainReport(
    steps=2,
    epochs=1.0,
    examples=4,
    seconds=0.5,
    losses=[(1, 0.5), (2, 0.25)],
    metrics={"hr_at_10": 0.1},
    best_step=2,
    stopped="epochs",
    peak_rss_mb=1.0,
    processes=1,
)


@pytest.fixture
def runs(tmp_path):
    return Runs(Workspace(tmp_path), "ranker")


def write(runs, name="a", **files):
    files = {WEIGHTS: b"weights", **{file.replace("_", "."): content for file, content in files.items()}}
    runs.write(name, {"model": {"width": 8}}, files, REPORT)


def test_a_run_is_read_as_it_was_written(runs):
    assert not runs.is_finished("a")
    write(runs, vocabulary_json=b"[]")
    write(runs, "b")
    assert runs.is_finished("a")
    assert runs.latest() == "b"
    finished = runs.open("a")
    assert (finished.name, finished.folder, finished.config) == ("a", runs.folder("a"), {"model": {"width": 8}})
    assert (finished.folder / "vocabulary.json").read_bytes() == b"[]"
    assert runs.read_report("a") == REPORT
    runs.point_to("a")
    assert runs.open().name == "a"


def test_a_run_that_is_not_to_be_the_latest_is_found_by_name(runs):
    write(runs)
    runs.write("b", {}, {WEIGHTS: b"weights"}, REPORT, latest=False)
    assert (runs.latest(), runs.open("b").name) == ("a", "b")


def test_kinds_lie_apart(runs):
    write(runs)
    with pytest.raises(MissingRunError, match=r"has no trained two-tower model: expected .*; run `pagewise train two-"):
        Runs(runs.workspace, "two_tower").latest()
    with pytest.raises(ValueError, match="expected one of genrec, two_tower, ranker, reward, blend, got 'ranking'"):
        Runs(runs.workspace, "ranking")


def test_a_run_that_is_not_there(runs):
    write(runs)
    with pytest.raises(MissingRunError, match=r"no finished ranker run 'b' in workspace .*; finished runs: a"):
        runs.open("b")


@pytest.mark.parametrize("content", [b"", b"b", b"\xff\xfe"])
def test_a_pointer_to_no_run_says_what_to_do(runs, content):
    write(runs)
    (runs.folder("a").parent / LATEST).write_bytes(content)
    with pytest.raises(MissingRunError, match=r"finished runs: a; `pagewise train ranker` makes one, .*LATEST names"):
        runs.open()


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: path.write_bytes(b"other"), r"vocabulary\.json is damaged"),
        (lambda path: path.unlink(), r"vocabulary\.json is missing"),
    ],
)
def test_damaged_files_are_refused(runs, damage, told):
    write(runs, vocabulary_json=b"[]")
    damage(runs.folder("a") / "vocabulary.json")
    with pytest.raises(ValueError, match=told):
        runs.open("a")


@pytest.mark.parametrize("content", [b"", b'{"files": {"wei', b"{}", b"[1]", b'{"files": 1}', b"\xff\xfe"])
def test_a_damaged_manifest_is_refused(runs, content):
    write(runs)
    (runs.folder("a") / MANIFEST).write_bytes(content)
    with pytest.raises(ValueError, match=r"manifest\.json is damaged, .*; delete .*a and run `pagewise train ranker`"):
        runs.open("a")


def test_files_a_run_cannot_have(runs):
    with pytest.raises(ValueError, match=r"expected weights.safetensors and none named config.json, got \['config.js"):
        write(runs, config_json=b"{}")
    with pytest.raises(ValueError, match=r"expected weights.safetensors and none named the run's own, got \[\]"):
        runs.write("a", {}, {}, REPORT)


def publish(worker, workspace, source=None, told=None, **options):
    """Train the toy with one further file: the largest absolute weight of the table of items."""
    config = dataclasses.replace(worker.CONFIG, epochs=2)
    return train_and_publish(
        workspace,
        "ranker",
        "toy",
        config={"model": {"hidden": 16}},
        build=worker.sharded,
        source=source or worker.Source,
        train_config=config,
        seed=5,
        evaluate=lambda model: lambda same: {"quality": float(same is model)},
        files=lambda state: {"peak.json": json.dumps(float(state[ITEMS].abs().max())).encode()},
        progress=told.append if told is not None else None,
        **options,
    )


ITEMS = "tables.collection.embeddings.item.weight"


@pytest.mark.integration
def test_training_is_published_with_its_files_and_found_again(worker, tmp_path):
    workspace, told = Workspace(tmp_path), []
    assert publish(worker, workspace, track=False, told=told) == []
    finished = Runs(workspace, "ranker").open()
    plain = worker.plain()
    load_weights(plain, finished.folder / WEIGHTS)
    assert json.loads((finished.folder / "peak.json").read_bytes()) == plain.state_dict()[ITEMS].abs().max().item()
    assert Runs(workspace, "ranker").read_report("toy").metrics == {"quality": 1.0}
    assert sorted(path.name for path in finished.folder.iterdir()) == [
        "config.json",
        "manifest.json",
        "peak.json",
        "report.json",
        "weights.safetensors",
    ]
    told.clear()
    publish(worker, workspace, track=False, told=told)
    assert told == ["run toy is finished already"]


@pytest.mark.integration
def test_an_interrupted_run_goes_on_in_the_same_mlflow_run_to_the_same_weights(worker, tmp_path):
    states, lines = [], []
    for name, kill in (("straight", False), ("broken", True)):
        workspace, told = Workspace(tmp_path / name), []
        if kill:
            with pytest.raises(RuntimeError, match="no more batches"):
                publish(worker, workspace, source=lambda rank, world: Failing(worker), tags={"data": "7"})
            first = (Runs(workspace, "ranker").folder("toy") / "mlflow_run").read_text()
        lines.append(publish(worker, workspace, told=told, tags={"data": "7"}, track=kill))
        states.append((Runs(workspace, "ranker").open().folder / WEIGHTS).read_bytes())
    assert "resumed at step 4 of 10" in told
    assert first in lines[1][0]
    assert "experiment ranker" in lines[1][0]
    assert states[0] == states[1]
    run = mlflow_run(workspace, first)
    assert (run.data.tags["data"], run.data.tags["checkpoint_run"]) == ("7", "toy")
    assert (run.data.params["ranker.hidden"], run.data.params["train.epochs"], run.data.params["seed"]) == (
        "16",
        "2",
        "5",
    )


def mlflow_run(workspace, run_id):
    from models.training.tracking import mlflow_client, tracking_uri

    return mlflow_client(tracking_uri(workspace)).get_run(run_id)


class Failing:
    """Has no fifth batch."""

    def __init__(self, worker):
        self.inner, self.steps_per_epoch = worker.Source(), 5

    def iterate(self, epoch, start_step):
        for step, batch in enumerate(self.inner.iterate(epoch, start_step), start_step):
            if step == 4:
                raise RuntimeError("no more batches")
            yield batch


def test_first_weights_and_dropout_draw_apart():
    from models.training.streams import DROPOUT, FIRST_WEIGHTS, stream_seed

    seeds = [stream_seed(3, stream) for stream in (FIRST_WEIGHTS, DROPOUT)]
    draws = [torch.rand(1, generator=torch.Generator().manual_seed(seed)).item() for seed in seeds]
    assert draws[0] != draws[1]
