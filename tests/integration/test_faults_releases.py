"""Ray Serve under load: its only replica is killed, and releases are promoted that must not be served."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from fault_world import Load, World, check_log, check_seen, kill, tell

from features.workspace import MANIFEST
from models.recommend.release import GOLDEN

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]
SERVER = """
import sys
from pathlib import Path
from features.store.config import StoreConfig
from features.workspace import Workspace
from serving.config import ServeConfig
from serving.run import serve_forever

pointer = Path(sys.argv[2])
current = lambda: Path(pointer.read_text())
serve_forever(
    Workspace(sys.argv[1]), current(), StoreConfig(), ServeConfig(port=0, refresh_s=0.1),
    ready=lambda service: print(service.url, flush=True), current=current,
)
"""


class Server:
    """`pagewise serve`, with a file in place of the registry."""

    def __init__(self, world: World, folder: Path) -> None:
        self._pointer, self._errors = folder / "champion", folder / "errors.txt"
        self.promote(world.release)
        command = [sys.executable, "-c", SERVER, world.workspace.root, str(self._pointer)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._errors.open("w"), text=True)
        self.url = self._process.stdout.readline().strip()
        assert self.url, self.said()

    def promote(self, release: Path) -> None:
        """Name another champion."""
        self._pointer.write_text(str(release))

    def said(self) -> str:
        """What it logged."""
        return self._errors.read_text()

    def replica(self) -> int:
        """The process that makes pages."""
        children = psutil.Process(self._process.pid).children(recursive=True)
        (found,) = [child.pid for child in children if "ray::ServeReplica:pagewise:pages" in " ".join(child.cmdline())]
        return found

    def release(self) -> str:
        """Whose pages are served."""
        return httpx.post(f"{self.url}/v1/recommend", json={"user_id": "u0"}, timeout=60).json()["release"]

    def close(self) -> None:
        """Stop it."""
        self._process.send_signal(signal.SIGTERM)
        self._process.communicate(timeout=120)


@pytest.fixture(scope="module")
def server(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with contextlib.closing(Server(world, tmp_path_factory.mktemp("server"))) as server:
        yield server


def copy_of(release: Path, name: str) -> Path:
    """Return a copy of a release under a name of its own."""
    folder = shutil.copytree(release, release.parent / name)
    change_manifest(folder, release_id=name)
    return folder


def change_manifest(folder: Path, **values: object) -> None:
    document = json.loads((folder / MANIFEST).read_bytes())
    (folder / MANIFEST).write_text(json.dumps(document | values))


def with_other_golden_answers(folder: Path) -> str:
    """Let it have recorded what it does not answer, with digests that are right; return why it is refused."""
    golden = json.loads((folder / GOLDEN).read_bytes())
    golden["lists"][0]["popular"]["scores"][0] += 1
    (folder / GOLDEN).write_text(json.dumps(golden))
    files = json.loads((folder / MANIFEST).read_bytes())["files"]
    change_manifest(folder, files={**files, GOLDEN: hashlib.sha256((folder / GOLDEN).read_bytes()).hexdigest()})
    return "golden answers came out different"


def without_a_file(folder: Path) -> str:
    (folder / "config.json").unlink()
    return "is missing"


def with_truncated_weights(folder: Path) -> str:
    (weights,) = folder.glob("checkpoints/genrec/*/*.safetensors")
    os.truncate(weights, weights.stat().st_size // 2)
    return "is damaged"


def test_killed_replica(world, server, told) -> None:
    with Load(server.url, "replica") as load:
        kill(server.replica())
        missed = load.until("the replica is missed", lambda: load.pages["503 unavailable"])
        good = load.until_good()
    seconds = check_log(world, load, unlogged=2)  # what two callers got within the last milliseconds of the replica
    assert {status.split()[0] for status in load.pages} == {"200", "503"}
    assert load.retry_after <= {"1", "5"}
    tell(told, "only replica killed", load, pages=missed + good, log=seconds)


@pytest.mark.parametrize("corrupt", [with_other_golden_answers, without_a_file, with_truncated_weights])
def test_corrupt_release_promoted(corrupt, world, server, told) -> None:
    release = copy_of(world.release, corrupt.__name__)
    reason = corrupt(release)
    with Load(server.url, corrupt.__name__) as load:
        server.promote(release)
        refused = load.until("the release is refused", lambda: reason in server.said())
        assert server.release() == world.release.name
    check_log(world, load)
    check_seen(load)
    tell(told, f"promoted {corrupt.__name__.replace('_', ' ')}", load, refused=refused)


def test_a_good_release_is_still_taken(world, server, told) -> None:
    """After all that was refused."""
    release = copy_of(world.release, "good")
    with Load(server.url, "good") as load:
        server.promote(release)
        seconds = load.until("the release is served", lambda: server.release() == "good")
    check_log(world, load)
    check_seen(load)
    tell(told, "promoted a good release", load, served=seconds)
