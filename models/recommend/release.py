"""A release: everything that pages are made of, in one folder that checks itself when it is loaded.

A release is a small workspace of its own, without anything that can run code::

    <release id>/
        config.json                           page maker, decoding, index
        semantic_ids/<generation>/...         the bundle, as published
        tables/{item_statistics,transitions,clean_items,item_features}/...
        checkpoints/{genrec,two_tower,ranker}/<run>/...   the models it has, as published
        index/two_tower.faiss                 item vectors
        golden.json                           50 requests with answers (`models.recommend.golden`)
        manifest.json                         digests of all files; written last

The release id is a digest of content: writing the same parts again gives the same release. `LATEST`, beside the
releases, names the one written last.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.fs as pafs

from features.definitions import features_digest
from features.schemas import EVENT_KINDS, ITEMS, SEQUENCES, SPLITS, schema_hash
from features.semantic_ids import Catalogue
from features.workspace import MANIFEST, Workspace, write_atomically
from models.recommend import golden
from models.recommend.index_report import compare_indexes
from models.recommend.interface import RequestBatch
from models.recommend.recommender import Recommender
from models.recommend.release_manifest import LATEST, ReleaseError, ReleaseManifest, check_files, read_manifest
from models.recommend.release_parts import KINDS, TWO_TOWER, ReleaseConfig, assemble, copy_parts, table_bytes
from models.recommend.requests import requests_from_sequences
from models.recommend.two_tower_retriever import TwoTowerRetriever
from models.tokenizer.bundle import Bundle
from models.training.tracking import code_version
from models.two_tower.model import TwoTower

GOLDEN = "golden.json"
GOLDEN_HISTORY = 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class Release:
    """A loaded release."""

    directory: Path
    manifest: ReleaseManifest
    recommender: Recommender


def feature_schema() -> str:
    """Return a digest of what histories, items, features and event codes look like."""
    text = "|".join([*EVENT_KINDS, schema_hash(SEQUENCES), schema_hash(ITEMS), features_digest()])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_release(
    releases: Path,
    workspace: Workspace,
    *,
    config: ReleaseConfig,
    runs: Mapping[str, str],
    generation: str | None = None,
    metrics: Mapping[str, float] | None = None,
    progress: Callable[[str], None] | None = None,
) -> ReleaseManifest:
    """Collect the parts in `releases/<release id>`, answer the golden requests and publish the folder in one step.

    Args:
        releases: Folder of all releases.
        workspace: Source of the bundle, of the runs, of `item_statistics`, `transitions`, `clean_items`, `sequences`
            and the features.
        config: How it answers.
        runs: Kind of model (`genrec`, `two_tower`, `ranker`) -> a finished run of the workspace; without any, pages
            are made of item transitions and the popular list.
        generation: Of the semantic IDs; None for the newest.
        metrics: Noted in the manifest.
        progress: Told what is being done.

    Raises:
        ReleaseError: GenRec was trained on another generation of semantic IDs.
        FileNotFoundError: A part is missing.
    """
    say = progress or (lambda message: None)
    if unknown := sorted(set(runs) - set(KINDS)):
        raise ValueError(f"runs: expected kinds of models among {', '.join(KINDS)}, got {', '.join(unknown)}")
    bundle = Bundle.load(workspace, generation)
    releases.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=releases, prefix=".writing-"))
    try:
        say(f"release: parts of generation {bundle.generation}")
        copy_parts(workspace, bundle, runs, config, folder)
        recommender = assemble(folder, bundle.generation)
        requests = golden_requests(workspace, recommender.catalogue)
        say(f"release: {len(requests)} golden requests")
        for line in _index_lines(recommender, requests, config):
            say(line)
        if config.recommend.int8_tables:
            say(_int8_line(recommender, assemble(folder, bundle.generation, int8=False), requests))
        (folder / GOLDEN).write_bytes(golden.to_bytes(golden.record(recommender, requests)))
        manifest = _manifest(folder, bundle.generation, recommender, runs, metrics or {})
        _write_json(folder / MANIFEST, dataclasses.asdict(manifest))
        _publish(folder, releases / manifest.release_id)
        write_atomically(pafs.LocalFileSystem(), str(releases / LATEST), manifest.release_id.encode())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return manifest


def load_release(directory: Path) -> Release:
    """Check a release's files, build its recommender and compare its golden answers.

    Raises:
        FileNotFoundError: There is no release there.
        ReleaseError: A file is missing or damaged, generations are mixed, the release was written for other feature
            contracts, or golden requests are answered differently.
    """
    manifest = read_manifest(directory)
    check_files(directory, manifest)
    if manifest.feature_schema != feature_schema():
        raise ReleaseError(
            f"release {manifest.release_id} was written for feature contracts {manifest.feature_schema}, this code has "
            f"{feature_schema()}; make a new release (`pagewise run`) or run the code of {manifest.code_version}"
        )
    recommender = assemble(directory, manifest.generation)
    if recommender.catalogue.fingerprint != manifest.catalogue:
        raise ReleaseError(
            f"release {manifest.release_id}: expected the catalogue {manifest.catalogue}, its semantic IDs give "
            f"{recommender.catalogue.fingerprint}; make a new release"
        )
    try:
        golden.check(recommender, json.loads((directory / GOLDEN).read_bytes()))
    except ValueError as error:
        raise ReleaseError(f"release {manifest.release_id}: {error}") from error
    return Release(directory=directory, manifest=manifest, recommender=recommender)


def _index_lines(recommender: Recommender, requests: RequestBatch, config: ReleaseConfig) -> list[str]:
    """Return recall against exact search, size and latency of the index over item vectors, asked by these users."""
    towers = recommender.retrievers.get(TWO_TOWER)
    if not isinstance(towers, TwoTowerRetriever) or not isinstance(towers.encoder, TwoTower):
        return []
    users_BD = towers.encoder.user_vectors(requests, recommender.catalogue)
    known_BD = users_BD[users_BD.any(axis=1)]
    if not len(known_BD):
        return []
    vectors_ND = towers.encoder.known_item_vectors()
    k = min(recommender.config.candidates, len(vectors_ND))
    return compare_indexes(vectors_ND, known_BD, [config.index], k).lines()


def _int8_line(recommender: Recommender, exact: Recommender, requests: RequestBatch) -> str:
    """Return what 8-bit tables change of the pages of these requests."""
    k = recommender.config.page_size
    (page, _), (wanted, _) = recommender.orders(requests, k), exact.orders(requests, k)
    equal = (page.items_BK == wanted.items_BK).all(axis=1).mean()
    both = [len(np.intersect1d(a_K, b_K)) / k for a_K, b_K in zip(page.items_BK, wanted.items_BK, strict=True)]
    before, after = (table_bytes(maker) for maker in (exact, recommender))
    return (
        f"8-bit tables: {before / 1024:,.0f} -> {after / 1024:,.0f} kB; {equal:.1%} of {len(requests)} golden pages "
        f"are the same {k} items in the same order, {np.mean(both):.1%} of their items are the same"
    )


def golden_requests(workspace: Workspace, catalogue: Catalogue, count: int = golden.COUNT) -> RequestBatch:
    """Return requests made of `count - 1` evenly spread ones of the latest split that has any, and one without history.

    They are nobody's (`golden.nobodys`): nobody need be removed from a release.
    """
    splits = set(pc.unique(workspace.table("sequences").read(["split"])["split"]).to_pylist())
    split = next(name for name in reversed(SPLITS) if name in splits)
    cases = requests_from_sequences(workspace, catalogue, split, max_history=GOLDEN_HISTORY)
    rows = np.unique(np.linspace(0, len(cases) - 1, count - 1).astype(np.int64))
    known = golden.nobodys(cases.requests.take(rows))
    return dataclasses.replace(
        known,
        user_ids=[*known.user_ids, "without history"],
        times_B=np.append(known.times_B, known.times_B.max()),
        history_offsets=np.append(known.history_offsets, known.history_offsets[-1]),
        excluded_offsets=np.append(known.excluded_offsets, known.excluded_offsets[-1]),
        columns=None if known.columns is None else known.columns.take(np.append(np.arange(len(known)), -1)),
    )


def _manifest(
    folder: Path, generation: str, recommender: Recommender, runs: Mapping[str, str], metrics: Mapping[str, float]
) -> ReleaseManifest:
    files = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    # golden answers follow from the other files, but their scores may differ in the last digits
    content = json.dumps({name: digest for name, digest in files.items() if name != GOLDEN}, sort_keys=True)
    return ReleaseManifest(
        release_id=hashlib.sha256(content.encode()).hexdigest()[:12],
        generation=generation,
        catalogue=recommender.catalogue.fingerprint,
        feature_schema=feature_schema(),
        code_version=code_version(),
        retrievers=tuple(recommender.retrievers),
        runs=dict(runs),
        files=files,
        metrics=dict(metrics),
    )


def _publish(folder: Path, target: Path) -> None:
    if (target / MANIFEST).exists():
        return
    shutil.rmtree(target, ignore_errors=True)
    folder.chmod(0o755)
    folder.rename(target)


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_bytes(json.dumps(document, indent=2, sort_keys=True).encode())
