"""HAProxy before the replicas: where Ray finds its files, and what it says when no replica answers."""

from __future__ import annotations

import json
from pathlib import Path

from serving.exchange import RETRY_S


def haproxy_environment(folder: Path, metrics_port: int, stats_port: int) -> dict[str, str]:
    """Return what Ray's processes look at: HAProxy, its files below this service's folder, replicas tuned for it.

    Args:
        folder: The service's own folder; Ray's default is one for all services of the machine.
        metrics_port: A free port for HAProxy's own metrics.
        stats_port: A free port for its statistics page; both listen on all interfaces.
    """
    own = folder / "h"  # paths of sockets must stay below 107 bytes
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # a replica that died with a request: another one answers it; events are told apart by their keys
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics_port),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats_port),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(own / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(own / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(own / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(own),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(own / "server-state"),
    }


def answer_in_json(folder: Path) -> None:
    """Replace what HAProxy answers itself; it reads the file again whenever replicas come or go."""
    for file in (folder / "h").rglob("500.http"):
        body = json.dumps({"error": "unavailable", "detail": "no part of the service could answer; ask again"})
        head = (
            "HTTP/1.1 503 Service Unavailable",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            f"Retry-After: {RETRY_S}",
            "Cache-Control: no-cache",
        )
        file.write_bytes("\r\n".join((*head, "", body)).encode())
