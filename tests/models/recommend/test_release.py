from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from release_cases import make_genrec, make_release, make_workspace

from features.workspace import Workspace
from models.recommend.golden import COUNT
from models.recommend.release import GOLDEN, golden_requests, load_release
from models.recommend.release_manifest import ReleaseError, ReleaseManifest, latest_release, read_manifest
from models.tokenizer.bundle import Bundle

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("release") / "ws")


@pytest.fixture(scope="module")
def genrec(workspace) -> str:
    return make_genrec(workspace)


@pytest.fixture(scope="module")
def published(workspace, genrec) -> ReleaseManifest:
    return make_release(workspace.local_path("releases"), workspace, genrec)


@pytest.fixture
def copied(workspace, published, tmp_path):
    """A copy that may be damaged."""
    return shutil.copytree(workspace.local_path("releases", published.release_id), tmp_path / "copy")


def test_a_loaded_release_answers_as_the_written_one(workspace, published):
    release = load_release(workspace.local_path("releases", published.release_id))
    assert release.manifest == published
    assert published.retrievers == ("genrec", "transitions", "popular")
    assert published.generation == Bundle.load(workspace).generation
    assert published.metrics == {"hr_at_10": 0.5}
    requests = golden_requests(workspace, release.recommender.catalogue)
    assert len(requests) == 11  # made of ten validation pages, and one without history
    pages = release.recommender.pages(requests)
    assert pages[-1].fallback == "popular"
    assert {page.fallback for page in pages[:-1]} == {None}
    assert any(part["transitions"] > 0 for page in pages for part in page.parts)


def test_a_release_knows_no_path_of_the_machine_that_wrote_it(workspace, copied):
    for path in copied.rglob("*"):
        assert path.is_dir() or workspace.root.encode() not in path.read_bytes()
    load_release(copied)


def test_no_code_travels_in_a_release(copied):
    files = [path for path in copied.rglob("*") if path.is_file()]
    assert {path.suffix or path.name for path in files} <= {".json", ".parquet", ".safetensors", ".faiss", "LATEST"}


def test_the_same_parts_give_the_same_release_and_other_parts_another(workspace, genrec, published, tmp_path):
    releases = workspace.local_path("releases")
    assert make_release(releases, workspace, genrec).release_id == published.release_id
    assert sorted(path.name for path in releases.iterdir()) == sorted(["LATEST", published.release_id])
    others = [
        make_release(tmp_path, workspace, genrec, epsilon=0.2),
        make_release(tmp_path, workspace, make_genrec(workspace, seed=1)),
        make_release(tmp_path, workspace, None),
    ]
    assert len({published.release_id, *(other.release_id for other in others)}) == 4
    assert latest_release(tmp_path).name == others[-1].release_id


def test_a_release_without_genrec_names_what_stands_in(workspace, tmp_path):
    manifest = make_release(tmp_path, workspace, None)
    recommender = load_release(tmp_path / manifest.release_id).recommender
    page = recommender.pages(golden_requests(workspace, recommender.catalogue).take(np.array([0])))[0]
    assert page.fallback == "transitions"


def test_golden_requests_are_at_most_the_count(workspace):
    catalogue = Bundle.load(workspace).catalogue()
    assert len(golden_requests(workspace, catalogue, count=4)) == 4
    assert COUNT == 50


def test_mixed_generations_are_refused(workspace, tmp_path):
    foreign = make_genrec(workspace, generation="000009-deadbeef")
    with pytest.raises(ReleaseError, match=r"trained on semantic IDs 000009-deadbeef, the bundle is 000001-\w+"):
        make_release(tmp_path, workspace, foreign)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_release_leaves_nothing_behind(workspace, tmp_path):
    with pytest.raises(FileNotFoundError, match="no finished GenRec run 'none' in workspace"):
        make_release(tmp_path / "releases", workspace, "none")
    assert list((tmp_path / "releases").iterdir()) == []


@pytest.mark.parametrize("name", ["weights.safetensors", "config.json", GOLDEN])
def test_damage_is_refused_with_the_name_of_the_file(copied, name):
    path = copied / name if (copied / name).exists() else next(copied.rglob(name))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ReleaseError, match=rf"is damaged: .*{name} has digest"):
        load_release(copied)
    path.unlink()
    with pytest.raises(ReleaseError, match=rf"is incomplete: .*{name} is missing"):
        load_release(copied)


def test_a_folder_without_a_release(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no release in .*: expected .*manifest\.json"):
        load_release(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no release in .*: expected .*LATEST"):
        latest_release(tmp_path)


def rewrite_manifest(directory, **changes) -> None:
    document = {**dataclasses.asdict(read_manifest(directory)), **changes}
    (directory / "manifest.json").write_text(json.dumps(document))


def test_other_feature_contracts_are_refused(copied):
    rewrite_manifest(copied, feature_schema="0123")
    with pytest.raises(ReleaseError, match="written for feature contracts 0123"):
        load_release(copied)


def test_another_catalogue_is_refused(copied):
    rewrite_manifest(copied, catalogue="0123")
    with pytest.raises(ReleaseError, match="expected the catalogue 0123"):
        load_release(copied)


def test_wrong_answers_are_refused_even_if_all_digests_fit(copied):
    """What golden requests are for: code that reads the same files another way."""
    document = json.loads((copied / GOLDEN).read_text())
    document["lists"][0]["genrec"]["scores"][0] -= 0.1
    (copied / GOLDEN).write_text(json.dumps(document))
    files = {name: digest for name, digest in read_manifest(copied).files.items() if name != GOLDEN}
    rewrite_manifest(copied, files=files)
    with pytest.raises(ReleaseError, match=r"golden answers came out different.*'golden request 0', genrec: place 0"):
        load_release(copied)
