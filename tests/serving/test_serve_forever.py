"""The long-running process: its Redis dies, its release is replaced, it is told to stop; no request goes unanswered."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest
from serving_processes import RAY, processes

SERVER = """
import sys
from pathlib import Path
from features.store.config import StoreConfig
from features.workspace import Workspace
from serving.config import ServeConfig
from serving.run import serve_forever

workspace, first, pointer = Workspace(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
serve_forever(
    workspace, first, StoreConfig(), ServeConfig(port=0, refresh_s=0.1, request_timeout_s=60),
    ready=lambda service: print(service.url, flush=True), current=lambda: Path(pointer.read_text()),
    progress=lambda line: print(line, flush=True),
)
print("stopped", flush=True)
"""


@pytest.mark.slow
@pytest.mark.integration
def test_long_running_service_heals_swaps_and_stops(workspace, release_folder, next_release_folder, tmp_path):
    pointer = tmp_path / "champion"
    pointer.write_text(str(release_folder))
    command = [sys.executable, "-c", SERVER, workspace.root, str(release_folder), str(pointer)]
    before = processes(*RAY)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        url = server.stdout.readline().strip()
        pages = _pages(url)
        assert next(pages)["fallback"] is None
        os.kill(int(workspace.local_path("store", "redis.pid").read_text()), signal.SIGKILL)
        assert any(page["fallback"] is None for page in pages)
        assert httpx.get(f"{url}/ready").status_code == 200

        pointer.write_text(str(tmp_path / "nowhere"))  # whatever the registry says, pages are served
        assert next(pages)["release"] == release_folder.name
        damaged = shutil.copytree(release_folder, tmp_path / "damaged")
        manifest = json.loads((damaged / "manifest.json").read_text())
        (damaged / "manifest.json").write_text(json.dumps({**manifest, "release_id": "damaged"}))
        (damaged / "golden.json").unlink()
        pointer.write_text(str(damaged))
        assert any("pagewise_refused_releases_total 1.0" in httpx.get(f"{url}/metrics").text for _ in pages)
        pointer.write_text(str(next_release_folder))
        assert any(page["release"] == next_release_folder.name for page in pages)
        server.terminate()
        said = server.communicate(timeout=60)[0].splitlines()
        old, new = (f"release {folder.name}" for folder in (release_folder, next_release_folder))
        assert said[0] == f"starting release damaged beside {old}"
        assert said[1].startswith("refused release damaged: ")
        assert said[1].endswith(f"; {old} is served on")
        assert said[2:] == [f"starting {new} beside {old}", f"serving {new}", "stopped"]
    assert server.returncode == 0
    assert processes(*RAY) - before == set()
    assert processes(str(workspace.local_path("store"))) == set()


def _pages(url: str) -> Iterator[dict]:
    """Ask for pages of u0 for a minute; each request must be answered."""
    deadline = time.monotonic() + 60
    with httpx.Client(base_url=url, timeout=60) as client:
        while time.monotonic() < deadline:
            response = client.post("/v1/recommend", json={"user_id": "u0"})
            assert response.status_code == 200, response.text
            yield response.json()
