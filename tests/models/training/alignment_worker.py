"""A shop with a supervised GenRec, to be aligned; as a program: `alignment_worker.py WORKSPACE`."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import numpy as np

from features.workspace import Workspace
from models.alignment.config import AlignConfig
from models.genrec.config import DecodeConfig, GenRecConfig
from models.recommend.interface import NO_ITEM
from models.tokenizer.build import build_bundle
from models.tokenizer.config import SemanticIdConfig
from models.training.alignment import align_genrec
from models.training.config import TrainConfig
from models.training.genrec import train_genrec

SEMANTIC_IDS = SemanticIdConfig(
    levels=2,
    codes=5,
    text_dimensions=4,
    collaborative_dimensions=4,
    max_collision_rate=1.0,
    min_code_share=0.0,
    min_perplexity=0.0,
)
MODEL = GenRecConfig(layers=1, width=16, heads=2, kv_heads=1, ffn_width=32, page_items=3, batch_tokens=512)
TRAIN_CONFIG = TrainConfig(epochs=4, learning_rate=0.01, precision="float32", checkpoint_every_steps=3, threads=1)
REWARD_TRAIN = TrainConfig(epochs=2, learning_rate=0.01, precision="float32", monitor="auc", threads=1)
DECODE = DecodeConfig()
ALIGN = AlignConfig(
    group=4, learning_rate=1e-3, steps=8, pages_per_step=8, evaluate_every_steps=4, validation_pages=60, tolerance=0.5
)


class HalfTheShop:
    """A reward that can be hacked: the items of two of the four categories are worth everything, whoever asks."""

    name = "half the shop"

    def score(self, requests, items_BK):
        scores_BK = (items_BK % 4 < 2).astype(np.float32)
        return np.where(items_BK == NO_ITEM, -np.inf, scores_BK).astype(np.float32)


def ranker_worker():
    spec = importlib.util.spec_from_file_location("shop", Path(__file__).with_name("ranker_worker.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_workspace(root: Path, **options) -> Workspace:
    """The shop of `ranker_worker.py` with semantic IDs and a supervised GenRec."""
    workspace = ranker_worker().make_workspace(root, **options)
    build_bundle(workspace, SEMANTIC_IDS, seed=0)
    train_genrec(workspace, MODEL, TRAIN_CONFIG, seed=3, track=False)
    return workspace


def align(workspace: Workspace, progress=None, decode=DECODE, **changes):
    config = dataclasses.replace(ALIGN, **changes)
    model = ranker_worker().MODEL
    return align_genrec(workspace, config, model, REWARD_TRAIN, decode=decode, seed=3, track=False, progress=progress)


if __name__ == "__main__":
    print("\n".join(align(Workspace(sys.argv[1]), progress=print).lines()))
