"""Training from a Qwen2 checkpoint: first what is new, then all; through TorchRec, averaging and weight decay."""

import dataclasses
from pathlib import Path

import pytest
import torch

from features.workspace import Workspace
from models.genrec.config import GenRecConfig
from models.training.genrec import load_genrec, train_genrec
from models.training.genrec_run import KIND
from models.training.runs import Runs

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.integration

WORKER = Path(__file__).with_name("genrec_worker.py")
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", WORKER)


def make_checkpoint(folder: Path, model: GenRecConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    config = transformers.Qwen2Config(
        vocab_size=50,
        hidden_size=model.width,
        intermediate_size=model.ffn_width,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        num_key_value_heads=model.kv_heads,
        rope_parameters={"rope_type": "default", "rope_theta": model.rope_theta},
        rms_norm_eps=model.norm_eps,
    )
    peer = transformers.Qwen2ForCausalLM(config)
    peer.save_pretrained(folder)
    return peer.state_dict()


@pytest.fixture(scope="module")
def shop(genrec_worker, tmp_path_factory):
    """A workspace, a checkpoint folder and the checkpoint's weights."""
    folder = tmp_path_factory.mktemp("pretrained")
    weights = make_checkpoint(folder / "qwen", genrec_worker.MODEL)
    return genrec_worker.make_workspace(folder / "workspace", validation=False), folder / "qwen", weights


def train(genrec_worker, workspace, folder, hold, progress=None, **changes):
    model = dataclasses.replace(genrec_worker.MODEL, pretrained=str(folder), hold_pretrained=hold, **changes)
    config = dataclasses.replace(genrec_worker.TRAIN_CONFIG, epochs=2, weight_decay=0.1)
    return train_genrec(workspace, model, config, seed=3, track=False, progress=progress)


def block_weights(workspace, run):
    model, _ = load_genrec(workspace, run)
    return {name: model.state_dict()[name] for name in model.pretrained_names()}


def test_held_weights_stay_to_the_bit_and_the_others_learn(genrec_worker, shop):
    workspace, folder, weights = shop
    training = train(genrec_worker, workspace, folder, hold=0.999)
    found = block_weights(workspace, training.run)
    assert len(found) == 13
    assert all(torch.equal(value, weights[name]) for name, value in found.items())
    assert training.train.losses[-1][1] < training.train.losses[0][1]


def test_after_their_share_all_weights_learn(genrec_worker, shop):
    workspace, folder, weights = shop
    training = train(genrec_worker, workspace, folder, hold=0.5)
    found = block_weights(workspace, training.run)
    assert not any(torch.equal(value, weights[name]) for name, value in found.items())


def test_a_training_that_is_interrupted_in_either_stage_ends_alike(genrec_worker, shop, tmp_path):
    workspace, folder, _ = shop
    whole = train(genrec_worker, workspace, folder, hold=0.5)
    again = genrec_worker.make_workspace(tmp_path, validation=False)
    told = []
    for stop in (break_at_step_10, break_at_step_15):
        with pytest.raises(ConnectionResetError):
            train(genrec_worker, again, folder, hold=0.5, progress=stop)
    resumed = train(genrec_worker, again, folder, hold=0.5, progress=told.append)
    # of 18 steps the first 9 hold
    assert "resumed at step 14 of 18" in told
    assert resumed.run == whole.run
    files = [Runs(place, KIND).folder(whole.run) / "weights.safetensors" for place in (workspace, again)]
    assert files[0].read_bytes() == files[1].read_bytes()


def break_at_step_10(line):
    if " step 10/" in line:
        raise ConnectionResetError


def break_at_step_15(line):
    if " step 15/" in line:
        raise ConnectionResetError


def test_another_checkpoint_makes_another_run(genrec_worker, shop, tmp_path):
    workspace, folder, _ = shop
    moved = tmp_path / "qwen"
    names = []
    for seed in (0, 1):
        make_checkpoint(moved, genrec_worker.MODEL, seed)
        names.append(train(genrec_worker, workspace, moved, hold=0.5).run)
    assert names[0] != names[1]
    digests = [load_genrec(workspace, name)[1].pretrained for name in names]
    _, first = load_genrec(workspace, train(genrec_worker, workspace, folder, hold=0.5).run)
    assert digests[0] == first.pretrained != digests[1]


def test_another_shape_is_refused_before_anything_is_trained(genrec_worker, shop):
    told = []
    with pytest.raises(ValueError, match=r"layers 2 \(checkpoint: 1\); use genrec.layers=1 genrec.width=16"):
        train(genrec_worker, shop[0], shop[1], hold=0.5, progress=told.append, layers=2)
    assert not told


@pytest.mark.slow
def test_two_processes_hold_alike(genrec_worker, launch, shop, tmp_path):
    _, folder, weights = shop
    workspace = genrec_worker.make_workspace(tmp_path, validation=False)
    done = launch(*TWO, workspace.root, folder)
    assert done.returncode == 0, done.stderr
    found = block_weights(Workspace(workspace.root), None)
    assert all(torch.equal(value, weights[name]) for name, value in found.items())
