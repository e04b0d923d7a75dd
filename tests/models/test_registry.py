from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from features.workspace import Workspace
from models.recommend.release_manifest import ReleaseError
from models.registry import CHALLENGER, CHAMPION, CHAMPIONS, MODEL, PROMOTED_BY, ROLLED_BACK_TO, Registry, RegistryError

pytestmark = pytest.mark.integration
WEIGHTS = "genrec/weights.safetensors"


def write_release(workspace: Workspace, name: str) -> Path:
    """The registry looks at nothing but the manifest and the digests in it."""
    folder = workspace.local_path("releases", name)
    (folder / "genrec").mkdir(parents=True)
    (folder / WEIGHTS).write_bytes(name.encode())
    manifest = {
        "release_id": name,
        "generation": "000001-abc",
        "catalogue": "c",
        "feature_schema": "f",
        "code_version": "v",
        "retrievers": ["popular"],
        "runs": {},
        "files": {WEIGHTS: hashlib.sha256(name.encode()).hexdigest()},
        "metrics": {"hr_at_10": 0.0625},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory) -> Path:
    """An MLflow database after its migrations, which take seconds."""
    workspace = Workspace(tmp_path_factory.mktemp("mlflow"))
    assert Registry(workspace).version(CHAMPION) is None
    return workspace.local_path("mlflow.db")


@pytest.fixture
def registry(empty_store, tmp_path) -> Registry:
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    return Registry(Workspace(tmp_path))


def versions(registry: Registry, *names: str) -> list[int]:
    return [registry.register(write_release(registry.workspace, name)) for name in names]


def tags(registry: Registry, version: int) -> dict[str, str]:
    return dict(registry._client.get_model_version(MODEL, str(version)).tags)


def write_verdict(registry: Registry, **content: object) -> Path:
    path = registry.workspace.local_path("verdict.json")
    path.write_text(json.dumps(content))
    return path


def test_a_registered_release_is_the_challenger_and_can_be_fetched(registry):
    assert versions(registry, "aaa", "bbb") == [1, 2]
    assert tags(registry, 1) == {"release_id": "aaa", "sid_generation": "000001-abc", "hr_at_10": "0.0625"}
    folder = registry.resolve(CHALLENGER)
    assert folder == registry.workspace.local_path("releases", "bbb")
    shutil.rmtree(folder)
    assert (registry.resolve(CHALLENGER) / WEIGHTS).read_bytes() == b"bbb"
    assert sorted(path.name for path in folder.parent.iterdir()) == ["aaa", "bbb"]


def test_registering_again_keeps_the_version(registry):
    assert versions(registry, "aaa", "bbb") == [1, 2]
    assert registry.register(registry.workspace.local_path("releases", "aaa")) == 1
    assert registry.resolve(CHALLENGER).name == "aaa"
    assert (registry.version(CHALLENGER), registry.version(CHAMPION)) == (1, None)


def test_the_first_champion_needs_nothing_the_second_a_reason(registry):
    versions(registry, "aaa", "bbb")
    assert registry.promote(1) == "first"
    assert registry.resolve(CHAMPION).name == "aaa"
    with pytest.raises(RegistryError, match="version 1 is the champion: promoting version 2 needs a replay verdict"):
        registry.promote()
    assert registry.promote(force=True) == "force"
    assert tags(registry, 2)[PROMOTED_BY] == "force"
    assert registry.resolve().name == "bbb"
    assert registry.promote(2) == "force"  # it is the champion already


def test_a_damaged_release_is_neither_registered_nor_promoted_nor_rolled_back_to(registry):
    versions(registry, "aaa", "bbb")
    registry.promote(1)
    folder = registry.workspace.local_path("releases", "bbb")
    (folder / WEIGHTS).write_bytes(b"other")
    damage = rf"release bbb is damaged: {folder / WEIGHTS} has digest .*; delete {folder}: `pagewise serve` fetches"
    with pytest.raises(ReleaseError, match=damage):
        registry.register(folder)
    with pytest.raises(ReleaseError, match=damage):
        registry.promote(2, force=True)
    assert registry.resolve(CHAMPION).name == "aaa"
    shutil.rmtree(folder)  # as the message says
    assert registry.promote(2, force=True) == "force"
    (registry.workspace.local_path("releases", "aaa") / WEIGHTS).unlink()
    with pytest.raises(ReleaseError, match=r"release aaa is incomplete: .*weights\.safetensors is missing"):
        registry.rollback()
    assert registry.resolve(CHAMPION).name == "bbb"


def test_what_a_verdict_must_be_about(registry):
    versions(registry, "aaa", "bbb")
    assert registry.compared() == ("bbb", None)
    registry.promote(1)
    assert registry.compared() == ("bbb", "aaa")
    assert registry.compared(1) == ("aaa", "aaa")
    with pytest.raises(RegistryError, match="no version 3"):
        registry.compared(3)


def test_a_verdict_promotes_only_what_it_is_about(registry):
    versions(registry, "aaa", "bbb")
    registry.promote(1)
    with pytest.raises(FileNotFoundError, match=r"no verdict at .*verdict\.json"):
        registry.promote(2, verdict=registry.workspace.local_path("verdict.json"))
    registry.workspace.write_bytes(b"[]", "list.json")
    with pytest.raises(RegistryError, match=r"list\.json: expected a JSON object"):
        registry.promote(2, verdict=registry.workspace.local_path("list.json"))
    with pytest.raises(RegistryError, match="expected challenger 'bbb', got 'ccc'"):
        registry.promote(2, verdict=write_verdict(registry, challenger="ccc", champion="aaa", promote=True))
    with pytest.raises(RegistryError, match="expected champion 'aaa', got 'ddd'"):
        registry.promote(2, verdict=write_verdict(registry, challenger="bbb", champion="ddd", promote=True))
    with pytest.raises(RegistryError, match="expected promote true, got False"):
        registry.promote(2, verdict=write_verdict(registry, challenger="bbb", champion="aaa", promote=False))
    assert registry.resolve().name == "aaa"
    reason = registry.promote(2, verdict=write_verdict(registry, challenger="bbb", champion="aaa", promote=True))
    assert reason.startswith("verdict ")
    assert tags(registry, 2)[PROMOTED_BY] == reason


def test_rollback_walks_back_champion_by_champion(registry):
    versions(registry, "aaa", "bbb", "ccc")
    for version in (1, 2, 3):
        registry.promote(version, force=True)
    assert registry.rollback() == 2
    assert tags(registry, 3)[ROLLED_BACK_TO] == "2"
    assert registry.promote(3, force=True) == "force"
    assert (registry.rollback(), registry.rollback()) == (2, 1)
    with pytest.raises(RegistryError, match="nothing to roll back to: version 1 is the first champion"):
        registry.rollback()
    assert registry.resolve().name == "aaa"


def test_a_promotion_that_was_cut_off_is_no_champion(registry):
    versions(registry, "aaa", "bbb", "ccc")
    registry.promote(1)
    registry.promote(2, force=True)
    registry._client.set_registered_model_tag(MODEL, CHAMPIONS, "[1, 2, 3]")  # killed before the alias was set
    assert registry.rollback() == 1


def test_absent_things_are_named(registry):
    with pytest.raises(RegistryError, match=r"no version of 'pagewise' is champion in sqlite:.*`pagewise promote`"):
        registry.resolve()
    with pytest.raises(RegistryError, match=r"no version of 'pagewise' is challenger"):
        registry.promote()
    with pytest.raises(RegistryError, match=r"no version of 'pagewise' is champion"):
        registry.rollback()
    with pytest.raises(RegistryError, match=r"is canary in sqlite:.*; known aliases: none"):
        registry.resolve("canary")
    with pytest.raises(RegistryError, match=r"no version 7 of 'pagewise' in sqlite:.*; registered: none"):
        registry.promote(7)
    with pytest.raises(FileNotFoundError, match=r"no release in .*nowhere"):
        registry.register(registry.workspace.local_path("nowhere"))
