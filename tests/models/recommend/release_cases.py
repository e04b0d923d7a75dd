"""A tiny workspace with everything a release is made of: 12 items in two aisles, 10 users who stay in their aisle."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import torch

from features.schemas import CLICK, EVENT_CODE, ITEM_STATISTICS, ITEMS, SEQUENCES, TRAIN, TRANSITIONS, VALIDATION
from features.workspace import Workspace
from models.genrec.config import DecodeConfig, GenRecConfig
from models.recommend.config import RecommendConfig
from models.recommend.release import write_release
from models.recommend.release_manifest import ReleaseManifest
from models.recommend.release_parts import ReleaseConfig
from models.tokenizer.build import build_bundle
from models.tokenizer.bundle import Bundle
from models.tokenizer.config import SemanticIdConfig
from models.training.config import TrainConfig
from models.training.export import full_state, weights_bytes
from models.training.genrec_run import KIND, GenRecRun
from models.training.position import TrainReport
from models.training.runs import WEIGHTS, Runs

DAY = 86_400_000
ITEM_COUNT, USERS = 12, 10
SEMANTIC_IDS = SemanticIdConfig(
    levels=2,
    codes=4,
    text_dimensions=4,
    collaborative_dimensions=0,
    max_collision_rate=1.0,
    min_code_share=0.0,
    min_perplexity=0.0,
)
GENREC = GenRecConfig(layers=1, width=16, heads=2, kv_heads=1, ffn_width=16)
DECODE = DecodeConfig(beams=16)
UNTRAINED = TrainReport(
    steps=0,
    epochs=0.0,
    examples=0,
    seconds=0.0,
    losses=[],
    metrics={},
    best_step=None,
    stopped="epochs",
    peak_rss_mb=0.0,
    processes=1,
)


def commit(workspace: Workspace, name: str, rows: pa.Table) -> None:
    table = workspace.table(name)
    table.commit([table.write_part(rows, shard=0)])


def make_workspace(root: Path) -> Workspace:
    """Tables and one bundle. Item n is in aisle n % 2; user u's page p holds item (2 p + u) % 12."""
    workspace = Workspace(root)
    words = ["kite rope wind", "puzzle board dice"]
    items = [
        {
            "item_id": f"i{n:02d}",
            "title": f"{words[n % 2]} model{n % 5}",
            "category": [f"aisle{n % 2}"],
            "price": 1.0 + n,
        }
        for n in range(ITEM_COUNT)
    ]
    commit(workspace, "clean_items", pa.Table.from_pylist(items, schema=ITEMS))
    rows = []
    for split, pages in ((TRAIN, range(4)), (VALIDATION, range(4, 5))):
        for user in range(USERS):
            bought = [f"i{(2 * page + user) % ITEM_COUNT:02d}" for page in pages]
            times = [page * DAY + user for page in pages]
            rows.append(
                {
                    "user_id": f"u{user}",
                    "split": split,
                    "page_ids": [f"u{user}-{page}" for page in pages],
                    "page_times": times,
                    "page_lengths": [1] * len(bought),
                    "items": bought,
                    "events": [EVENT_CODE[CLICK]] * len(bought),
                    "times": times,
                }
            )
    commit(workspace, "sequences", pa.Table.from_pylist(rows, schema=SEQUENCES))
    ids = [item["item_id"] for item in items]
    popularity = [float(n) for n in range(ITEM_COUNT)]
    counts = {name: [0] * ITEM_COUNT for name in ITEM_STATISTICS.names}
    counts |= {"item_id": ids, "popularity": popularity, "recent_popularity": popularity}
    commit(workspace, "item_statistics", pa.table(counts))
    followers = ids[2:] + ids[:2]
    commit(workspace, "transitions", pa.table([ids, followers, [0.5] * ITEM_COUNT], schema=TRANSITIONS))
    build_bundle(workspace, SEMANTIC_IDS, seed=0)
    return workspace


def make_genrec(
    workspace: Workspace, seed: int = 0, generation: str | None = None, config: GenRecConfig = GENREC
) -> str:
    """Publish untrained weights for the newest bundle (or, pretended, another generation); return the run's name."""
    bundle = Bundle.load(workspace)
    catalogue = bundle.catalogue()
    run = GenRecRun(
        model=config,
        train=TrainConfig(),
        seed=seed,
        generation=generation or bundle.generation,
        codes_per_level=catalogue.vocabulary.codes_per_level,
        items=len(catalogue),
        vector_width=catalogue.item_vectors.shape[1] if config.item_vectors else 0,
        catalogue=catalogue.fingerprint,
        sequences="unread",
        code_version="0",
    )
    torch.manual_seed(seed)
    model = run.build()
    with torch.no_grad():
        for parameter in model.parameters():  # far from ties, whatever the rounding
            parameter.normal_(std=0.5)
    Runs(workspace, KIND).write(run.name, run.to_json(), {WEIGHTS: weights_bytes(full_state(model))}, UNTRAINED)
    return run.name


def make_release(releases: Path, workspace: Workspace, genrec_run: str | None, **config: float) -> ReleaseManifest:
    return write_release(
        releases,
        workspace,
        config=ReleaseConfig(recommend=RecommendConfig(**config), decode=DECODE),
        runs={} if genrec_run is None else {KIND: genrec_run},
        metrics={"hr_at_10": 0.5},
    )
