"""Alignment from a supervised run to an aligned one, on a shop with forty users."""

from __future__ import annotations

import dataclasses
import os
import shutil

import numpy as np
import pytest
import torch

from features.schemas import VALIDATION
from features.workspace import Workspace
from models.genrec.config import DecodeConfig
from models.genrec.item_level import item_logits
from models.metrics import ranking_metrics
from models.recommend.genrec_retriever import GenRecRetriever
from models.recommend.release_parts import latest_runs
from models.recommend.requests import requests_from_sequences
from models.training.alignment import align_to
from models.training.alignment_data import make_batch
from models.training.alignment_measure import DEPTH, HIT_RATE, REWARD, SHOWN
from models.training.alignment_pages import AlignmentPages
from models.training.alignment_policy import Policy
from models.training.export import load_weights
from models.training.genrec import train_genrec
from models.training.genrec_run import KIND, load_genrec, newest_genrec
from models.training.runs import ALIGNED, WEIGHTS, MissingRunError, Runs

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def shop(alignment_worker, tmp_path_factory):
    """A workspace with an aligned run, a copy of it from before, and the report."""
    folder = tmp_path_factory.mktemp("shop")
    workspace = alignment_worker.make_workspace(folder / "workspace")
    shutil.copytree(folder / "workspace", folder / "supervised")
    return workspace, folder / "supervised", alignment_worker.align(workspace)


@pytest.fixture
def supervised(shop, tmp_path):
    """A workspace of one's own, not aligned yet."""
    return Workspace(shutil.copytree(shop[1], tmp_path / "own"))


def test_an_aligned_run_lies_beside_the_supervised_one(shop):
    workspace, _, report = shop
    runs = Runs(workspace, KIND)
    assert (runs.latest(), runs.pointed_at(ALIGNED)) == (report.aligned_from, report.run)
    assert report.run != report.aligned_from
    model, run = load_genrec(workspace, report.run)
    assert (run.aligned_from, run.align, run.reward) == (report.aligned_from, report.align, report.reward)
    assert load_genrec(workspace)[1].aligned_from is None
    assert not model.training
    assert Runs(workspace, "reward").is_finished(report.reward)
    with pytest.raises(MissingRunError):
        Runs(workspace, "ranker").latest()


def test_evaluation_and_releases_take_the_aligned_run_while_it_fits(shop, supervised, alignment_worker):
    workspace, _, report = shop
    said: list[str] = []
    assert latest_runs(workspace, said.append)["genrec"] == newest_genrec(workspace) == report.run
    short = alignment_worker.align(supervised, steps=4)
    other = train_genrec(supervised, alignment_worker.MODEL, alignment_worker.TRAIN_CONFIG, seed=4, track=False)
    assert latest_runs(supervised, said.append)["genrec"] == other.run
    left_out = f"{short.run}, aligned from {short.aligned_from}"
    assert said == [
        f"GenRec run {report.run}, aligned from {report.aligned_from}",
        f"GenRec run {other.run}, supervised; left out: {left_out}; run `pagewise align`",
    ]


def test_a_damaged_aligned_run_names_its_command_and_a_deleted_one_is_left_out(shop, tmp_path):
    workspace, _, report = shop
    copy = Workspace(shutil.copytree(workspace.local_path(), tmp_path / "copy"))
    runs = Runs(copy, KIND)
    (runs.folder(report.run) / "weights.safetensors").write_bytes(b"cut off")
    with pytest.raises(ValueError, match=r"delete .* and run `pagewise align` again"):
        newest_genrec(copy)
    shutil.rmtree(runs.folder(report.run))
    said: list[str] = []
    assert newest_genrec(copy, said.append) == runs.latest()
    assert said == [
        f"GenRec run {runs.latest()}, supervised; left out: {report.run}, aligned but gone; run `pagewise align`"
    ]


def test_the_report_tells_days_groups_and_both_measurements(shop):
    _, _, report = shop
    lines = report.lines()
    assert lines[0].endswith("pages of 1970-01-05 to 1970-01-08")
    assert lines[1].endswith("pages before 1970-01-05, calibrated on those from 1970-01-04")
    assert "8 steps in " in lines[2]
    assert lines[2].endswith("all steps taken")
    assert lines[3].startswith("of 64 groups: 0 with no candidate, ")
    assert [step for step, _ in report.train.evaluations] == [0, 4, 8]
    assert report.before == report.train.evaluations[0][1]
    assert set(report.before) == set(SHOWN)
    assert lines[6].split()[:2] == ["hr_at_1", f"{report.before['hr_at_1']:.4f}"]
    assert 0 < report.before[REWARD] < 1


def test_all_but_the_item_table_is_trained(shop, alignment_worker, supervised):
    """In bfloat16 too: weights that autocast met in the rollouts must not lose their gradients."""
    before = load_genrec(supervised)[0].state_dict()
    config = dataclasses.replace(alignment_worker.ALIGN, nll_weight=0.0, gate=False, validation_pages=5)
    pages = AlignmentPages.load(supervised, config, max_history=10)
    pages = dataclasses.replace(
        pages,
        supervised=dataclasses.replace(
            pages.supervised, train=dataclasses.replace(pages.supervised.train, precision="bfloat16")
        ),
    )
    # the last weights, not the best
    hide_validation(supervised)
    options = {"decode": alignment_worker.DECODE, "seed": 1, "track": False}
    report = align_to(pages, alignment_worker.HalfTheShop(), "half", config, **options)
    assert report.before == {}
    after = load_genrec(supervised, report.run)[0].state_dict()
    same = {name for name, value in after.items() if torch.equal(value, before[name])}
    assert {name for name in same if name.startswith("tables.")} == {n for n in after if n.startswith("tables.")}
    assert not same - {name for name in same if name.startswith("tables.")}


def hide_validation(workspace):
    table = workspace.table("sequences")
    rows = table.read()
    table.commit([table.write_part(rows.filter([split == "train" for split in rows["split"].to_pylist()]), shard=0)])


def test_a_reward_that_is_hacked_ends_the_run_and_the_best_weights_before_are_kept(supervised, alignment_worker):
    """Half of the shop is worth everything: the policy learns to propose it to everybody, whatever they like."""
    config = dataclasses.replace(
        alignment_worker.ALIGN,
        group=6,
        learning_rate=5e-3,
        steps=60,
        evaluate_every_steps=5,
        tolerance=0.02,
        nll_weight=0.0,
        calibrate=False,
        gate=False,
    )
    pages = AlignmentPages.load(supervised, config, max_history=10)
    told = []
    options = {"decode": alignment_worker.DECODE, "seed": 1, "track": False, "progress": told.append}
    report = align_to(pages, alignment_worker.HalfTheShop(), "half the shop", config, **options)
    assert report.exploited
    assert report.train.stopped.startswith("held-out HR@10 fell from ")
    assert report.train.stopped.endswith(": the reward is being exploited")
    assert any("stopped: held-out HR@10 fell from" in line for line in report.lines())
    evaluations = dict(report.train.evaluations)
    last = max(evaluations)
    assert last < 60
    assert evaluations[last][REWARD] > evaluations[0][REWARD]
    assert evaluations[last][HIT_RATE] < 0.98 * max(metrics[HIT_RATE] for metrics in evaluations.values())
    assert report.train.best_step < last
    assert report.train.metrics == evaluations[report.train.best_step]
    assert report.train.metrics[HIT_RATE] >= 0.98 * report.before[HIT_RATE]


@pytest.fixture(scope="module")
def headed(shop, alignment_worker, tmp_path_factory):
    """A workspace whose supervised GenRec has an item head."""
    workspace = Workspace(shutil.copytree(shop[1], tmp_path_factory.mktemp("headed") / "own"))
    model = dataclasses.replace(alignment_worker.MODEL, item_vectors=True, item_head=0.5)
    train_genrec(workspace, model, alignment_worker.TRAIN_CONFIG, seed=3, track=False)
    return workspace


def policy_of(pages, judge, config, item_head):
    shape = dataclasses.replace(pages.supervised.model, item_head=item_head)
    policy = Policy(dataclasses.replace(pages.supervised, model=shape), pages.catalogue, judge, config)
    load_weights(policy, Runs(pages.workspace, KIND).folder(pages.run) / WEIGHTS)
    return policy


def test_the_item_head_is_taught_the_positives_beside_their_codes(headed, alignment_worker):
    """Twice its weight adds, once more, the mean over pages of the mean over positives of -log P(item)."""
    config = dataclasses.replace(alignment_worker.ALIGN, nll_weight=0.25)
    pages = AlignmentPages.load(headed, config, max_history=10)
    judge = pages.judge(alignment_worker.HalfTheShop(), config, seed=0)
    batch = make_batch(
        pages.cases.take(np.arange(9)), pages.catalogue, pages.supervised.model, None, np.random.default_rng(0)
    )
    policies = [policy_of(pages, judge, config, item_head) for item_head in (0.5, 1.0)]
    (loss, terms), (more, _) = (policy(batch) for policy in policies)
    model = policies[0]
    hidden_BTD, _ = model.hidden(batch.prompts)
    page_BD = hidden_BTD.flatten(0, 1)[batch.prompts.page_places_P]
    logits_BN = item_logits(model.item_level, page_BD, model.item_keys(torch.from_numpy(pages.catalogue.item_vectors)))
    surprise = -logits_BN.log_softmax(dim=1)
    pages_nll = [surprise[row, items[items >= 0]].mean() for row, items in enumerate(batch.taught_BP)]
    expected = torch.stack(pages_nll).mean()
    torch.testing.assert_close(terms["nll_items"], expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(more - loss, 0.25 * 0.5 * expected, rtol=1e-4, atol=1e-5)


def test_the_head_follows_and_is_measured_as_it_will_be_asked(headed, alignment_worker):
    """With the settings' decoding, and keys of the weights that are measured."""
    decode = DecodeConfig(item_weight=20.0, item_candidates=5)
    before = load_genrec(headed)[0].state_dict()
    changes = {"learning_rate": 5e-3, "tolerance": 1.0, "validation_pages": 500}
    report = alignment_worker.align(headed, decode=decode, **changes)
    model, run = load_genrec(headed, report.run)
    after = model.state_dict()
    for name in ("item_level.query.weight", "item_level.key.weight", "item_level.history.weight"):
        assert not torch.equal(after[name], before[name])
    assert report.train.best_step
    assert run.decode == decode
    assert alignment_worker.align(headed, **changes).run != report.run
    pages = AlignmentPages.load(headed, report.align, max_history=10)
    cases = requests_from_sequences(headed, pages.catalogue, VALIDATION, max_history=pages.max_history)
    assert len(cases) < report.align.validation_pages
    for asked, same in ((decode, True), (DecodeConfig(), False)):
        items_BK = GenRecRetriever(model, pages.catalogue, asked).retrieve(cases.requests, DEPTH).items_BK
        ranked = ranking_metrics(items_BK, cases.relevant_items, cases.relevant_offsets, ks=(1, 10, DEPTH))
        found = {name: float(ranked[name].mean()) for name in SHOWN if name in ranked}
        assert (found == pytest.approx({name: report.train.metrics[name] for name in found})) == same


def test_the_same_alignment_is_found_and_not_repeated(shop, alignment_worker):
    workspace, _, report = shop
    told = []
    again = alignment_worker.align(workspace, progress=told.append)
    assert told == [
        "reward model: a ranker of the earlier training days",
        f"run {report.reward} is finished already",
        f"run {report.run} is finished already",
    ]
    assert again == report


def test_an_interrupted_alignment_goes_on_to_the_same_weights(shop, supervised, alignment_worker):
    def break_at_step_4(line):
        if "evaluation at step 4:" in line:
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        alignment_worker.align(supervised, progress=break_at_step_4)
    assert Runs(supervised, KIND).pointed_at(ALIGNED) is None
    told = []
    alignment_worker.align(supervised, progress=told.append)
    assert "resumed at step 3 of 8" in told
    files = [Runs(place, KIND).folder(shop[2].run) / "weights.safetensors" for place in (shop[0], supervised)]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("changes", [{"admission": True}, {"rollouts": "sample", "sid_reward": "mean"}])
def test_further_switches_run(supervised, alignment_worker, changes):
    report = alignment_worker.align(supervised, steps=2, **changes)
    assert torch.isfinite(torch.tensor(list(report.train.metrics.values()))).all()
    assert ("admitted_share" in report.train.means) == ("admission" in changes)


def test_a_log_without_impressions_is_aligned_on_too(alignment_worker, tmp_path):
    workspace = alignment_worker.make_workspace(tmp_path, impressions=False)
    report = alignment_worker.align(workspace, steps=4)
    assert report.train.means["gate_rate"] > 0.5
    assert report.train.steps == 4


def test_several_processes_are_refused_before_anything_is_read(alignment_worker, monkeypatch, tmp_path):
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="expected one process, got 2; run `pagewise align` without torchrun"):
        alignment_worker.align(Workspace(tmp_path))


def test_without_a_supervised_run_the_command_that_makes_one_is_named(alignment_worker, tmp_path):
    with pytest.raises(MissingRunError, match=r"has no trained GenRec: .*; run `pagewise train genrec`"):
        alignment_worker.align(Workspace(tmp_path))


def test_pointers_at_a_run_of_the_other_kind_are_told(shop, supervised, alignment_worker):
    runs, report = Runs(supervised, KIND), shop[2]
    runs.point_to(report.aligned_from, ALIGNED)
    with pytest.raises(ValueError, match=f"ALIGNED: expected it to name an aligned run, but {report.aligned_from} is"):
        newest_genrec(supervised)
    runs.forget(ALIGNED)
    shutil.copytree(Runs(shop[0], KIND).folder(report.run), runs.folder(report.run))
    runs.point_to(report.run)
    with pytest.raises(ValueError, match=f"run {report.run} is aligned itself, from {report.aligned_from}"):
        alignment_worker.align(supervised)
