"""bfloat16, which `precision: auto` takes where the processor multiplies it, against float32: quality, not speed."""

import dataclasses

import pytest
import torch

from models.precision import autocast_type, multiplies_bfloat16
from models.training.genrec import train_genrec

CPU = torch.device("cpu")


def test_auto_takes_bfloat16_only_where_it_is_native():
    assert autocast_type("auto", CPU) == (torch.bfloat16 if multiplies_bfloat16(CPU) else None)
    assert (autocast_type("float32", CPU), autocast_type("bfloat16", CPU)) == (None, torch.bfloat16)


@pytest.mark.slow
@pytest.mark.skipif(not multiplies_bfloat16(CPU), reason="this processor emulates bfloat16")
def test_bfloat16_learns_as_well_as_float32(genrec_worker, tmp_path):
    """Means over seeds: the last tenth of the training loss, and NDCG@10 on pages that were held out."""
    workspace = genrec_worker.make_workspace(tmp_path)
    losses, ndcgs = {}, {}
    for precision in ("float32", "bfloat16"):
        config = dataclasses.replace(genrec_worker.TRAIN_CONFIG, precision=precision)
        runs = [train_genrec(workspace, genrec_worker.MODEL, config, seed=seed, track=False) for seed in range(5)]
        reports = [run.train for run in runs]
        tails = [[loss for step, loss in report.losses if step > 0.9 * report.steps] for report in reports]
        losses[precision] = torch.tensor(tails).mean().item()
        ndcgs[precision] = torch.tensor([report.metrics["ndcg_at_10"] for report in reports]).mean().item()
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)
    assert ndcgs["bfloat16"] == pytest.approx(ndcgs["float32"], abs=0.05)
