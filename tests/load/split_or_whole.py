"""What it costs to ask other processes for the models of a page: the split page maker against the whole one.

Both answer the same batches in this process, in turn, so that both meet the same noise; the split one asks the stages
of a service that runs beside. `python tests/load/split_or_whole.py WORKSPACE` takes the workspace's newest release.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
import torch
from ray import serve

from features.store.base import HISTORY
from features.store.config import StoreConfig
from features.store.redis_store import RedisStore, open_store
from features.workspace import Workspace
from models.recommend.release import Release, load_release
from models.recommend.release_manifest import latest_release
from serving.api import RecommendRequest
from serving.config import ServeConfig
from serving.pages import Answer
from serving.run import start_background
from serving.service import RecommendService
from serving.stage_names import stage_name, stage_replicas
from serving.stages import Split, Stage

STORE = StoreConfig()
STAGES = ("retrieval", "ranking")
HEADER = (
    "batch | whole: ms, own CPU ms | split: ms, own CPU ms, CPU ms of the stages | added ms | added CPU ms per page"
)


def service_of(release: Release, store: RedisStore, split: Split | None = None) -> RecommendService:
    """Make pages here, all of them or all but the models."""
    return RecommendService(release, store, history_length=STORE.history_length, arm="champion", split=split)


def split_of(release: Release, config: ServeConfig) -> Split:
    """Ask the stages of the service that runs."""
    handles = {stage: serve.get_app_handle(stage_name(stage, release.manifest.release_id)) for stage in STAGES}
    return Split(
        release.manifest.runs,
        {stage: Stage(handle, stage_replicas(config)[stage], 60.0) for stage, handle in handles.items()},
    )


def stage_processes(release_id: str) -> list[psutil.Process]:
    """Return the processes of a release's stages."""
    named, found = tuple(f"ray::ServeReplica:{stage_name(stage, release_id)}" for stage in STAGES), []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if "".join(process.cmdline()).startswith(named):
                found.append(process)
    return found


def seconds(processes: Sequence[psutil.Process]) -> float:
    """Return the processor seconds of processes so far."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def timed(service: RecommendService, batch: list[RecommendRequest], others: list[psutil.Process]) -> list[float]:
    """Return milliseconds, own processor milliseconds and those of other processes for one batch."""
    other, own, began = seconds(others), time.process_time(), time.perf_counter()
    answers = service.recommend(batch)
    times = [time.perf_counter() - began, time.process_time() - own, seconds(others) - other]
    assert all(isinstance(answer, Answer) and answer.page.fallback is None for answer in answers)
    return [1000 * value for value in times]


def row(whole: RecommendService, split: RecommendService, users: Sequence[str], size: int, rounds: int) -> str:
    """Compare batches of one size."""
    others = stage_processes(whole.release.manifest.release_id)
    taken: dict[str, list[list[float]]] = {"whole": [], "split": []}
    for number in range(rounds + 3):
        batch = [RecommendRequest(user_id=users[(number * size + place) % len(users)]) for place in range(size)]
        for name, service in (("whole", whole), ("split", split)):
            one = timed(service, batch, others)
            if number >= 3:
                taken[name].append(one)
    ms = {name: statistics.median(times[0] for times in rows) for name, rows in taken.items()}
    cpu = {name: np.mean(rows, axis=0)[1:] for name, rows in taken.items()}
    added_cpu = (cpu["split"].sum() - cpu["whole"].sum()) / size
    return (
        f"{size:5d} | {ms['whole']:7.1f} {cpu['whole'][0]:7.1f} | {ms['split']:7.1f} {cpu['split'][0]:7.1f} "
        f"{cpu['split'][1]:7.1f} | {ms['split'] - ms['whole']:7.1f} | {added_cpu:7.2f}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one row per size of a batch."""
    parser = argparse.ArgumentParser(description="Compare the split page maker with the whole one.")
    parser.add_argument("workspace", type=Path, help="with a release and a filled store")
    parser.add_argument("--sizes", default="1,8,32", help="requests per batch, separated by commas")
    parser.add_argument("--rounds", type=int, default=40, help="batches of each size")
    parser.add_argument("--retrieval", type=int, default=1, help="replicas")
    parser.add_argument("--ranking", type=int, default=1, help="replicas")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    workspace = Workspace(args.workspace)
    folder = latest_release(workspace.local_path("releases"))
    config = ServeConfig(
        port=0, request_timeout_s=60, retrieval_replicas=args.retrieval, ranking_replicas=args.ranking, stage_cpus=0.5
    )
    with start_background(workspace, folder, STORE, config), open_store(STORE, workspace) as store:
        whole = service_of(load_release(folder), store)
        split = service_of(load_release(folder), store, split_of(load_release(folder), config))
        users = [user for user in store.some_entities(HISTORY, 500) if store.users([user], 1)]
        sys.stdout.write(f"{len(users)} users, {len(whole.release.recommender.catalogue)} items\n{HEADER}\n")
        for size in map(int, args.sizes.split(",")):
            sys.stdout.write(row(whole, split, users, size, args.rounds) + "\n")
            sys.stdout.flush()
        for process in stage_processes(folder.name):
            sys.stdout.write(f"{process.cmdline()[0]}: {process.memory_info().rss / 1e6:.0f} MB resident\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
