"""What is broken, foreign, empty or too long: a clear error, or the documented answer."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
from recommend_cases import batch
from release_cases import DECODE, GENREC, SEMANTIC_IDS, commit, make_genrec, make_release, make_workspace

from features.schemas import ITEMS
from features.semantic_ids import Catalogue
from features.workspace import Workspace
from models.genrec.model import GenRec
from models.recommend.catalogue import catalogue_of
from models.recommend.config import RecommendConfig
from models.recommend.genrec_retriever import GenRecRetriever
from models.recommend.recommender import Recommender
from models.recommend.release import load_release
from models.recommend.release_manifest import ReleaseError
from models.recommend.release_parts import BLEND, ReleaseConfig, latest_runs, page_maker
from models.recommend.release_parts import GENREC as GENREC_KIND
from models.recommend.retrievers import PopularRetriever
from models.recommend.rules import CatalogueFacts
from models.tokenizer.build import build_bundle
from models.tokenizer.bundle import Bundle, DamagedBundleError, MissingBundleError
from models.training.genrec_run import load_genrec
from models.training.runs import WEIGHTS, Runs


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Workspace:
    workspace = make_workspace(tmp_path_factory.mktemp("broken") / "ws")
    make_genrec(workspace)
    return workspace


@pytest.fixture
def workspace(published, tmp_path) -> Workspace:
    """A copy that may be broken."""
    return Workspace(shutil.copytree(published.root, tmp_path / "ws"))


def bundle_file(workspace, *parts):
    return workspace.local_path("semantic_ids", Bundle.load(workspace).generation, *parts)


def genrec_of(catalogue):
    return GenRecRetriever(GenRec(GENREC, catalogue.vocabulary, items=1), catalogue, DECODE)


def pages_of(catalogue):
    facts = CatalogueFacts(ITEMS.empty_table(), catalogue)
    return Recommender(catalogue, [PopularRetriever(np.zeros(0))], RecommendConfig(), facts)


def read_everything(workspace):
    bundle = Bundle.load(workspace)
    return bundle.catalogue(), bundle.vectors, bundle.quantizer, bundle.encoder


FILES = [
    ("codes.parquet",),
    ("codebooks.safetensors",),
    ("vectors.safetensors",),
    ("encoder", "vocabulary.json"),
]


@pytest.mark.parametrize("name", FILES, ids="/".join)
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[: len(content) // 2], r"expected digest [0-9a-f]{16}, got"),
        (lambda content: content[:-9] + bytes(9), r"expected digest [0-9a-f]{16}, got"),
        (lambda content: None, "it is missing"),
    ],
    ids=["truncated", "garbled", "deleted"],
)
def test_a_damaged_file_of_semantic_ids_is_named_with_what_to_do(workspace, name, damage, message):
    path = bundle_file(workspace, *name)
    content = damage(path.read_bytes())
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(
        DamagedBundleError, match=rf"{name[-1]}: {message}.*; put the folder back .* and run `pagewise semantic-ids`"
    ):
        read_everything(workspace)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"files": {"codes', r"it is no manifest \(JSONDecodeError"),
        (b"\xff\xfe\x00", r"it is no manifest \(UnicodeDecodeError"),
        (b"[]", r"it is no manifest \(TypeError"),
        (b'{"config": {}}', r"it is no manifest \(KeyError: 'files'"),
    ],
)
def test_a_damaged_manifest_of_semantic_ids_is_named(workspace, content, message):
    bundle_file(workspace, "manifest.json").write_bytes(content)
    with pytest.raises(DamagedBundleError, match=rf"manifest.json: {message}"):
        Bundle.load(workspace)


def test_a_configuration_that_nobody_knows_is_refused(workspace):
    path = bundle_file(workspace, "manifest.json")
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "config": {**document["config"], "colour": 1}}))
    with pytest.raises(DamagedBundleError, match=r"its configuration cannot be used .*'colour'"):
        Bundle.load(workspace)


def test_a_damaged_pointer_to_semantic_ids_is_named(workspace):
    workspace.write_bytes(b"\x00\xff", "semantic_ids", "LATEST")
    with pytest.raises(DamagedBundleError, match=r"LATEST is damaged: expected the name of a generation, like 0000"):
        Bundle.load(workspace)


def test_what_the_message_advises_mends_the_semantic_ids(workspace):
    before = Bundle.load(workspace)
    bundle_file(workspace, "codes.parquet").write_bytes(b"")
    shutil.rmtree(workspace.local_path("semantic_ids", before.generation))
    assert build_bundle(workspace, SEMANTIC_IDS, seed=0).generation == before.generation
    assert Bundle.load(workspace).codes_NL.tolist() == before.codes_NL.tolist()


def test_a_damaged_manifest_of_a_release_is_named(workspace, tmp_path):
    manifest = make_release(tmp_path, workspace, None)
    (tmp_path / manifest.release_id / "manifest.json").write_bytes(b'{"release_id": 3}')
    with pytest.raises(ReleaseError, match=r"manifest.json is damaged, it is no manifest .*'retrievers'.*; delete"):
        load_release(tmp_path / manifest.release_id)


def test_a_model_of_other_semantic_ids_answers_nobody(workspace):
    other = build_bundle(workspace, dataclasses.replace(SEMANTIC_IDS, codes=5), seed=0).generation
    bundle, runs = Bundle.load(workspace), latest_runs(workspace)
    assert bundle.generation == other
    with pytest.raises(ReleaseError, match=rf"trained on semantic IDs 000001-\w+, the bundle is {other}: one release"):
        page_maker(workspace, catalogue_of(bundle, workspace), other, runs, ReleaseConfig())
    model, _ = load_genrec(workspace, runs["genrec"])
    with pytest.raises(ValueError, match=r"trained on codes \(4, 4\) per level, the catalogue has \(5, 5\)"):
        GenRecRetriever(model, bundle.catalogue(), DECODE)


def test_a_fusion_fitted_to_other_models_says_which(workspace):
    bundle, runs = Bundle.load(workspace), latest_runs(workspace)
    config = ReleaseConfig(recommend=RecommendConfig(fusion="learned"))
    made = workspace, catalogue_of(bundle, workspace), bundle.generation
    with pytest.raises(ReleaseError, match=r"needs fitted weights, got none; run `pagewise train blend`, or"):
        page_maker(*made, runs, config)
    report = Runs(workspace, GENREC_KIND).read_report(runs[GENREC_KIND])
    document = {"runs": {GENREC_KIND: "older", "ranker": "gone"}, "weights": {"genrec": 1.0}}
    Runs(workspace, BLEND).write("fitted", document, {WEIGHTS: b""}, report)
    now = runs[GENREC_KIND]
    with pytest.raises(
        ReleaseError, match=rf"was fitted to genrec older, which is now {now}; ranker gone, which is now none; run `"
    ):
        page_maker(*made, {**runs, BLEND: "fitted"}, config)


def test_a_model_of_semantic_ids_that_are_gone_says_which(workspace):
    make_genrec(workspace, generation="000009-deadbeef")
    _, run = load_genrec(workspace)
    with pytest.raises(MissingBundleError, match=r"'000009-deadbeef' is not in .*; put its folder back, or"):
        Bundle.load(workspace, run.generation)


def test_no_items_get_no_semantic_ids(workspace):
    commit(workspace, "clean_items", ITEMS.empty_table())
    with pytest.raises(ValueError, match=r"'clean_items' has no items: expected at least one .*`pagewise validate`"):
        build_bundle(workspace, SEMANTIC_IDS, seed=0)


def test_a_release_of_items_that_are_all_gone_is_refused(workspace, tmp_path):
    commit(workspace, "clean_items", ITEMS.empty_table())
    with pytest.raises(ReleaseError, match=r"'clean_items' has none of the 12 items of semantic IDs 000001-\w+"):
        make_release(tmp_path / "releases", workspace, None)
    assert list((tmp_path / "releases").iterdir()) == []


@pytest.mark.parametrize("make", [genrec_of, pages_of])
def test_a_catalogue_without_items_is_refused(make):
    with pytest.raises(ValueError, match=r"^the catalogue is empty: expected items .*; run `pagewise semantic-ids`"):
        make(Catalogue([], np.zeros((0, 2), np.int32), (4, 4)))


def test_a_catalogue_whose_items_are_all_unavailable_gives_empty_pages_with_the_reason(workspace, tmp_path):
    bundle = Bundle.load(workspace)
    items = [{"item_id": item, "title": item, "available": False} for item in bundle.item_ids.to_pylist()]
    commit(workspace, "clean_items", pa.Table.from_pylist(items, schema=ITEMS))
    manifest = make_release(tmp_path, workspace, latest_runs(workspace)["genrec"])
    page = load_release(tmp_path / manifest.release_id).recommender.pages(batch([[0, 1]]))[0]
    assert (page.items, page.candidates) == ([], [])
    assert page.reason == "no item of the catalogue is available at this moment"


def test_of_a_history_longer_than_the_context_the_newest_items_count(workspace):
    """A page is what the `max_history` newest items make it; older ones are still seen."""
    bundle = Bundle.load(workspace)
    catalogue = catalogue_of(bundle, workspace)
    model, run = load_genrec(workspace)
    retriever = GenRecRetriever(model, catalogue, DECODE)
    rng = np.random.default_rng(0)
    long = batch([rng.integers(0, 12, 5 * run.model.max_history).tolist()])
    newest = long.with_newest(run.model.max_history)
    assert len(long.history_items) == 5 * len(newest.history_items)
    whole, cut = (retriever.retrieve(requests, 12) for requests in (long, newest))
    assert whole.items_BK.tolist() == cut.items_BK.tolist()
    np.testing.assert_array_equal(whole.scores_BK, cut.scores_BK)
