"""Leases and crashes of the embedded Redis: nobody's server is stopped under them, and none is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
import redis

from features.store import embedded
from features.store.base import StoreUnavailableError
from features.store.embedded import SOCKET_PATH_LIMIT, EmbeddedRedis

pytestmark = pytest.mark.integration

HOLDER = """
import json, sys
from features.store.embedded import EmbeddedRedis
server = EmbeddedRedis(sys.argv[1])
print(json.dumps({"pid": server.pid, "url": server.url}), flush=True)
sys.stdin.readline()
"""


class Holder:
    """Another process with a lease; it leaves when told to, or is killed."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-c", HOLDER, str(folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        said = json.loads(self.process.stdout.readline())
        self.server_pid, self.url = said["pid"], said["url"]

    def leave(self) -> None:
        self.process.communicate("\n", timeout=30)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=30)


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.005)
    pytest.fail(f"process {pid} is still alive")


@pytest.fixture
def folder(tmp_path, server_pids):
    path = tmp_path / "store"
    yield path
    assert server_pids(path) == []


def test_server_starts_with_the_first_lease_and_stops_with_the_last(folder, server_pids):
    first, second = EmbeddedRedis(folder), EmbeddedRedis(folder)
    assert first.pid == second.pid
    first.close()
    with redis.Redis.from_url(second.url) as client:
        assert client.ping()
    assert server_pids(folder) == [second.pid]
    second.close()
    second.close()


def test_data_survive_a_restart(folder):
    with EmbeddedRedis(folder) as server, redis.Redis.from_url(server.url) as client:
        client.set("key", "value")
    with EmbeddedRedis(folder) as server, redis.Redis.from_url(server.url) as client:
        assert client.get("key") == b"value"


def test_second_process_attaches_and_the_last_one_out_stops_it(folder, server_pids):
    with EmbeddedRedis(folder) as mine, redis.Redis.from_url(mine.url) as client:
        other = Holder(folder)
        assert other.server_pid == mine.pid
        client.set("key", "value")  # a connected client must not keep the server alive beyond its leases
        mine.close()
        assert server_pids(folder) == [other.server_pid]
        other.leave()
        assert server_pids(folder) == []


def test_clean_exit_without_close_gives_the_lease_back(folder):
    Holder(folder).leave()
    assert list((folder / "leases").iterdir()) == []


def test_killed_holder_is_forgotten_and_its_server_adopted(folder, server_pids):
    killed = Holder(folder)
    killed.kill()
    assert server_pids(folder) == [killed.server_pid]
    with EmbeddedRedis(folder) as adopted:
        assert adopted.pid == killed.server_pid
        assert len(list((folder / "leases").iterdir())) == 1


def test_killed_holder_does_not_keep_the_server_after_the_last_one_left(folder):
    with EmbeddedRedis(folder):
        Holder(folder).kill()


def test_killed_server_comes_back_with_its_data(folder):
    with EmbeddedRedis(folder) as server, redis.Redis.from_url(server.url) as client:
        client.set("key", "value")
        killed = server.pid
        os.kill(killed, signal.SIGKILL)
        wait_until_gone(killed)
        assert server.pid is None
        server.ensure_running()
        assert client.get("key") == b"value"
        assert server.pid != killed


def test_durability_is_the_last_one_asked_for(folder):
    def fsync(server: EmbeddedRedis) -> str:
        with redis.Redis.from_url(server.url) as client:
            return client.config_get("appendfsync")["appendfsync"]

    with EmbeddedRedis(folder) as first:
        assert fsync(first) == "everysec"
        with EmbeddedRedis(folder, "always") as second:
            assert fsync(first) == "always"
            with EmbeddedRedis(folder):
                assert fsync(first) == "always"
            pid = second.pid
            os.kill(pid, signal.SIGKILL)
            wait_until_gone(pid)
            second.ensure_running()
            assert fsync(second) == "always"


def test_stale_files_of_a_crash_of_both_are_recovered(folder):
    killed = Holder(folder)
    killed.kill()
    os.kill(killed.server_pid, signal.SIGKILL)
    wait_until_gone(killed.server_pid)
    assert (folder / "redis.pid").exists()
    assert (folder / "redis.sock").is_socket()
    with EmbeddedRedis(folder) as server, redis.Redis.from_url(server.url) as client:
        assert client.ping()


def test_pid_file_that_names_another_process_is_not_believed(folder):
    folder.mkdir()
    (folder / "redis.pid").write_text(f"{os.getpid()}\n")
    with EmbeddedRedis(folder) as server:
        assert server.pid != os.getpid()


def test_lease_of_a_reused_process_id_is_stale(folder):
    (folder / "leases").mkdir(parents=True)
    (folder / "leases" / f"{os.getpid()}-1.000-abcdef").touch()
    with EmbeddedRedis(folder):
        assert len(list((folder / "leases").iterdir())) == 1


def test_forked_child_does_not_give_its_parents_lease_back(folder):
    with EmbeddedRedis(folder) as server:
        child = os.fork()
        if child == 0:
            server.close()
            os._exit(0)
        os.waitpid(child, 0)
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()


def test_long_and_odd_paths(tmp_path, server_pids):
    folder = tmp_path / "with space, ü and %20" / ("x" * SOCKET_PATH_LIMIT)
    with EmbeddedRedis(folder) as server, redis.Redis.from_url(server.url) as client:
        assert client.ping()
        assert len(client.connection_pool.connection_kwargs["path"].encode()) < SOCKET_PATH_LIMIT
    assert server_pids(folder) == []


def test_odd_but_short_path():
    with (
        tempfile.TemporaryDirectory(prefix="a b%20ü") as name,
        EmbeddedRedis(name) as server,
        redis.Redis.from_url(server.url) as client,
    ):
        assert client.ping()


def test_server_that_cannot_start_says_why(folder):
    folder.mkdir()
    (folder / "appendonly.aof").write_bytes(b"this is no append-only file\r\n" * 3)
    with pytest.raises(StoreUnavailableError, match=r"did not start; the end of its log: .*Bad file format"):
        EmbeddedRedis(folder)


def test_a_server_that_hangs_holds_nobody_up(tmp_path, monkeypatch):
    """Whoever waited for it without end could not be stopped, and would keep the lock from all others."""
    monkeypatch.setattr(embedded, "ANSWER_TIMEOUT_S", 0.2)
    with EmbeddedRedis(tmp_path, "everysec") as server:
        process = psutil.Process(server.pid)
        process.suspend()
        try:
            assert not server.revive()
            with pytest.raises(StoreUnavailableError, match=rf"{tmp_path} lives, but does not answer within 0.2 s"):
                EmbeddedRedis(tmp_path, "always")
        finally:
            process.resume()
        assert server.revive()
