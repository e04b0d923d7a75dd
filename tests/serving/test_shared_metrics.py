"""Two processes with one folder: whichever is asked answers for both, and forgets what an ended one served."""

from __future__ import annotations

import os
import subprocess
import sys

from serving.metrics import count_refused_release

REPLICA = """
import sys
from serving.metrics import GateMetrics, ServiceMetrics

metrics, gate = ServiceMetrics(), GateMetrics()
metrics.requests.labels("/v1/recommend", "200").inc(float(sys.argv[1]))
metrics.batch_size.observe(float(sys.argv[1]))
metrics.release.labels(sys.argv[2], "champion").set(1)
gate.in_flight.set(float(sys.argv[1]))
print("set", flush=True)
if sys.stdin.readline():
    print(metrics.text().decode(), flush=True)
"""


def test_one_replica_answers_for_all(tmp_path):
    told = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", REPLICA, number, release],
            **{"env": told, "text": True, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE},
        )
        for number, release in (("2", "old"), ("3", "new"))
    ]
    assert [process.stdout.readline() for process in processes] == ["set\n"] * 2
    first, second = processes
    text, _ = second.communicate("\n")
    both = {line for line in text.splitlines() if line.startswith("pagewise_")}
    assert {
        'pagewise_requests_total{route="/v1/recommend",status="200"} 5.0',
        'pagewise_batch_size_bucket{le="2.0"} 1.0',
        'pagewise_batch_size_bucket{le="4.0"} 2.0',
        "pagewise_batch_size_sum 5.0",
        'pagewise_release_info{arm="champion",release="old"} 1.0',
        'pagewise_release_info{arm="champion",release="new"} 1.0',
        "pagewise_in_flight 5.0",
        "pagewise_refused_releases_total 0.0",
    } <= both
    count_refused_release(tmp_path)
    count_refused_release(tmp_path)
    text, _ = first.communicate("\n")
    assert 'pagewise_requests_total{route="/v1/recommend",status="200"} 5.0' in text
    assert 'release="old"' in text
    assert 'release="new"' not in text
    assert "pagewise_in_flight 2.0" in text
    assert "pagewise_refused_releases_total 2.0" in text
