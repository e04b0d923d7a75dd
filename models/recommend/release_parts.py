"""What a release is made of: copied from a workspace into a small one, and put together to a page maker."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
from torch import nn

from features.columns import Columns
from features.definitions import ITEM_FEATURES
from features.semantic_ids import Catalogue
from features.values import ItemSnapshots
from features.workspace import MANIFEST, Workspace
from models.embedding.bags import PlainBags
from models.embedding.int8 import Int8Bags, Int8Tables, quantize
from models.embedding.plain import PlainTables
from models.genrec.config import DecodeConfig
from models.inputs.items import item_columns
from models.recommend.blend import Blend
from models.recommend.catalogue import catalogue_of
from models.recommend.config import LEARNED, RecommendConfig
from models.recommend.genrec_retriever import GenRecRetriever
from models.recommend.interface import Ranker, Retriever
from models.recommend.model_ranker import ModelRanker
from models.recommend.recommender import Recommender
from models.recommend.release_manifest import ReleaseError
from models.recommend.retrievers import PopularRetriever, TransitionsRetriever
from models.recommend.rules import CatalogueFacts
from models.recommend.two_tower_retriever import TwoTowerRetriever
from models.recommend.vector_index import VectorIndex
from models.recommend.vector_index_config import IndexConfig
from models.tokenizer.bundle import ROOT as SEMANTIC_IDS
from models.tokenizer.bundle import Bundle
from models.training.config import stored_config
from models.training.genrec_run import load_genrec, newest_genrec
from models.training.ranker_run import load_ranker
from models.training.runs import LATEST, Runs
from models.training.two_tower_run import load_two_tower
from models.two_tower.model import TwoTower

CONFIG = "config.json"
INDEX = ("index", "two_tower.faiss")
GENREC, TWO_TOWER, RANKER, BLEND = "genrec", "two_tower", "ranker", "blend"
KINDS = (GENREC, TWO_TOWER, RANKER, BLEND)
"""Kinds of models a release may have, each of them one finished run in `checkpoints/<kind>/`."""
TABLE_MODULES = (PlainTables, PlainBags, Int8Tables, Int8Bags)
FACT_COLUMNS = ["item_id", "title", "category", "brand", "price", "available_from", "available", "attributes"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReleaseConfig:
    """How a release answers."""

    recommend: RecommendConfig = dataclasses.field(default_factory=RecommendConfig)
    decode: DecodeConfig = dataclasses.field(default_factory=DecodeConfig)
    index: IndexConfig = dataclasses.field(default_factory=IndexConfig)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ReleaseConfig:
        """Read what `dataclasses.asdict` wrote."""
        advice = "make another release: `pagewise run`, or `pagewise register`"
        return cls(
            recommend=stored_config(RecommendConfig, document["recommend"], advice),
            decode=stored_config(DecodeConfig, document["decode"], advice),
            index=stored_config(IndexConfig, document["index"], advice),
        )


def copy_parts(
    workspace: Workspace, bundle: Bundle, runs: Mapping[str, str], config: ReleaseConfig, folder: Path
) -> None:
    """Copy tables, semantic IDs and training runs into `folder`, index the item vectors and write the configuration.

    Args:
        workspace: Where they come from.
        bundle: Of the workspace.
        runs: The finished run of each kind of model that the release has.
        config: Kept with the parts.
        folder: Becomes a small workspace of its own.
    """
    target = Workspace(folder)
    _copy_tables(workspace, bundle, target)
    for kind, name in runs.items():
        _copy_run(workspace, kind, name, target)
    if TWO_TOWER in runs:
        catalogue = catalogue_of(Bundle.load(target, bundle.generation), target)
        model, items = _two_tower(target, _facts(target, catalogue), runs[TWO_TOWER], int8=False)
        target.write_bytes(VectorIndex.build(model.item_vectors(items), config.index).to_bytes(), *INDEX)
    target.write_bytes(json.dumps(dataclasses.asdict(config), indent=2, sort_keys=True).encode(), CONFIG)


def assemble(folder: Path, generation: str, *, int8: bool | None = None) -> Recommender:
    """Build the page maker from the parts in `folder`.

    Args:
        folder: A release, or one that is being written.
        generation: Of its semantic IDs.
        int8: Whether tables are held as 8-bit integers; None as the release's configuration says.

    Raises:
        ReleaseError: GenRec was trained on another generation of semantic IDs, or with another two-tower model.
    """
    parts = Workspace(folder)
    config = ReleaseConfig.from_json(json.loads((folder / CONFIG).read_bytes()))
    if int8 is not None:
        config = dataclasses.replace(config, recommend=dataclasses.replace(config.recommend, int8_tables=int8))
    catalogue = catalogue_of(Bundle.load(parts, generation), parts)
    runs = latest_runs(parts)
    index = VectorIndex.from_bytes(parts.read_bytes(*INDEX)) if TWO_TOWER in runs else None
    return page_maker(parts, catalogue, generation, runs, config, index)


def latest_runs(workspace: Workspace, say: Callable[[str], None] | None = None) -> dict[str, str]:
    """Return the newest run of every kind of model in a workspace; `newest_genrec` chooses GenRec's and says so."""
    present = [kind for kind in KINDS if workspace.local_path("checkpoints", kind, LATEST).exists()]
    return {
        kind: newest_genrec(workspace, say) if kind == GENREC else Runs(workspace, kind).latest() for kind in present
    }


def page_maker(
    workspace: Workspace,
    catalogue: Catalogue,
    generation: str,
    runs: Mapping[str, str],
    config: ReleaseConfig,
    index: VectorIndex | None = None,
) -> Recommender:
    """Build a page maker of tables and trained models.

    Args:
        workspace: Holds them.
        catalogue: Of the semantic IDs.
        generation: Their name.
        runs: Kind of model -> a finished run.
        config: How pages are made.
        index: Over the two-tower's vectors of the catalogue's items, in their order; None to make it.

    Raises:
        ReleaseError: GenRec was trained on another generation of semantic IDs, or with another two-tower model; the
            learned fusion is asked for and was fitted to other models, or not at all.
    """
    facts, int8 = _facts(workspace, catalogue), config.recommend.int8_tables
    retrievers: list[Retriever] = [
        TransitionsRetriever.from_tables(workspace, catalogue),
        PopularRetriever.from_tables(workspace, catalogue),
    ]
    towers = None
    if TWO_TOWER in runs:
        towers, items = _two_tower(workspace, facts, runs[TWO_TOWER], int8=int8)
        index = index or VectorIndex.build(towers.item_vectors(items), config.index)
        retrievers.append(TwoTowerRetriever(towers, index, catalogue.item_ids, catalogue))
    if GENREC in runs:
        retrievers.append(_genrec(workspace, catalogue, generation, runs, config, towers))
    ranker = _ranker(workspace, catalogue, facts, runs[RANKER], int8=int8) if RANKER in runs else None
    blend = _blend(workspace, runs) if config.recommend.fusion == LEARNED else None
    return Recommender(catalogue, retrievers, config.recommend, facts, ranker, blend)


def _blend(workspace: Workspace, runs: Mapping[str, str]) -> Blend:
    """Return the weights of the learned fusion, which hold for the scores of the very models they were fitted to."""
    advice = "run `pagewise train blend`, or use recommend.fusion=ranks"
    if BLEND not in runs:
        raise ReleaseError(f"recommend.fusion=learned needs fitted weights, got none; {advice}")
    fitted = Runs(workspace, BLEND).open(runs[BLEND]).config
    members = {kind: run for kind, run in runs.items() if kind != BLEND}
    if fitted["runs"] != members:
        differ = [
            f"{kind} {fitted['runs'].get(kind, 'none')}, which is now {members.get(kind, 'none')}"
            for kind in KINDS
            if fitted["runs"].get(kind) != members.get(kind)
        ]
        raise ReleaseError(f"the learned fusion was fitted to {'; '.join(differ)}; {advice}")
    return Blend(weights=fitted["weights"])


def _ranker(workspace: Workspace, catalogue: Catalogue, facts: CatalogueFacts, run: str, *, int8: bool) -> Ranker:
    """Return a trained ranker over a catalogue, with the newest item features of the workspace."""
    model, trained = load_ranker(workspace, run)
    if int8:
        quantize(model)
    features: Columns | None = None
    if workspace.table(ITEM_FEATURES).exists():
        features = ItemSnapshots.load(workspace, catalogue.item_ids).latest()
    return ModelRanker(model, trained.calibration, item_columns(facts.table), features)


def table_bytes(recommender: Recommender) -> int:
    """Return the bytes of the embedding tables of all models in a page maker."""
    modules: list[nn.Module] = []
    for retriever in recommender.retrievers.values():
        if isinstance(retriever, TwoTowerRetriever) and isinstance(retriever.encoder, TwoTower):
            modules.append(retriever.encoder.net)
        elif isinstance(retriever, GenRecRetriever):
            modules.append(retriever.model)
    if isinstance(recommender.ranker, ModelRanker):
        modules.append(recommender.ranker.model)
    tables = [part for module in modules for part in module.modules() if isinstance(part, TABLE_MODULES)]
    return sum(value.numel() * value.element_size() for part in tables for value in part.state_dict().values())


def _facts(workspace: Workspace, catalogue: Catalogue) -> CatalogueFacts:
    inside = pc.field("item_id").isin(catalogue.item_ids)
    return CatalogueFacts(workspace.table("clean_items").read(FACT_COLUMNS, filter=inside), catalogue)


def _two_tower(workspace: Workspace, facts: CatalogueFacts, run: str, *, int8: bool) -> tuple[TwoTower, Columns]:
    """Return the two-tower model, knowing the catalogue's items, and their columns."""
    model, _ = load_two_tower(workspace, run)
    if int8:
        quantize(model.net)
    items = item_columns(facts.table)
    model.know_items(facts.table.column("item_id").combine_chunks(), items)
    return model, items


def _genrec(
    workspace: Workspace,
    catalogue: Catalogue,
    generation: str,
    runs: Mapping[str, str],
    config: ReleaseConfig,
    towers: TwoTower | None,
) -> GenRecRetriever:
    model, run = load_genrec(workspace, runs[GENREC])
    if run.generation != generation:
        raise ReleaseError(
            f"GenRec was trained on semantic IDs {run.generation}, the bundle is {generation}: one release cannot mix "
            "generations; train GenRec on the bundle, or release the bundle it was trained on"
        )
    if run.two_tower is not None and run.two_tower != runs.get(TWO_TOWER):
        raise ReleaseError(
            f"GenRec was trained with the two-tower run {run.two_tower}, the release has {runs.get(TWO_TOWER)}; train "
            "GenRec on the newest two-tower run, or release the run it was trained with"
        )
    if config.recommend.int8_tables:
        quantize(model)
    return GenRecRetriever(model, catalogue, config.decode, towers)


def _copy_tables(workspace: Workspace, bundle: Bundle, target: Workspace) -> None:
    source, destination = workspace.path(SEMANTIC_IDS, bundle.generation), target.path(SEMANTIC_IDS, bundle.generation)
    Path(destination).mkdir(parents=True)
    pafs.copy_files(source, destination, workspace.filesystem, target.filesystem)
    shutil.rmtree(Path(destination) / "plots", ignore_errors=True)
    for name in ("item_statistics", "transitions"):
        _write(target, name, workspace.table(name).read())
    inside = pc.field("item_id").isin(bundle.item_ids)
    items = workspace.table("clean_items").read(FACT_COLUMNS, filter=inside).sort_by("item_id")
    if not items.num_rows:
        raise ReleaseError(
            f"table 'clean_items' has none of the {len(bundle.item_ids)} items of semantic IDs {bundle.generation}; "
            "restore it with `pagewise validate`, or make semantic IDs of its items: `pagewise semantic-ids`"
        )
    _write(target, "clean_items", items)
    if workspace.table(ITEM_FEATURES).exists():
        _write(target, ITEM_FEATURES, _newest(workspace.table(ITEM_FEATURES).read(filter=inside)))


def _newest(snapshots: pa.Table) -> pa.Table:
    """Return each item's newest snapshot."""
    ordered = snapshots.sort_by([("item_id", "ascending"), ("as_of", "ascending")])
    ids = ordered.column("item_id").combine_chunks()
    last = (
        pa.concat_arrays([pc.not_equal(ids[:-1], ids[1:]), pa.array([True])]) if len(ids) else pa.array([], pa.bool_())
    )
    return ordered.filter(last)


def _write(target: Workspace, name: str, rows: pa.Table) -> None:
    table = target.table(name)
    table.commit([table.write_part(rows, shard=0)])


def _copy_run(workspace: Workspace, kind: str, name: str, target: Workspace) -> None:
    """Copy the files that the run's manifest lists, after they were checked."""
    run, copy = Runs(workspace, kind).open(name), Runs(target, kind)
    copy.folder(run.name).mkdir(parents=True)
    for file in (*json.loads((run.folder / MANIFEST).read_bytes())["files"], MANIFEST):
        shutil.copyfile(run.folder / file, copy.folder(run.name) / file)
    copy.point_to(run.name)
