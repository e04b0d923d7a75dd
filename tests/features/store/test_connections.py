"""URLs of all kinds of Redis: what they mean, and how their servers are reached again after a failure."""

from __future__ import annotations

import re

import pytest
import redis
from redis_servers import eventually, free_port, one_server, sentinel

from features.store.base import SEEN, NewBlob, StoreUnavailableError, Version
from features.store.config import StoreConfig, address
from features.store.connections import connect
from features.store.redis_store import RedisStore, open_store
from features.workspace import Workspace
from pagewise.probes import PROBES

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("url", "hosts", "service", "plain"),
    [
        ("redis+cluster://a:7000,b", (("a", 7000), ("b", 6379)), "", "redis://a:7000/"),
        (
            "rediss+cluster://me:p@a,b:1/?ssl_ca_certs=/c",
            (("a", 6379), ("b", 1)),
            "",
            "rediss://me:p@a/?ssl_ca_certs=/c",
        ),
        ("redis+sentinel://[::1]:1,b/main", (("::1", 1), ("b", 26379)), "main", "redis://[::1]:1/"),
        ("rediss+sentinel://:p%40q@a/main/3", (("a", 26379),), "main", "rediss://:p%40q@a/3"),
        ("unix:///tmp/x.sock?db=2", (), "", "unix:///tmp/x.sock?db=2"),
    ],
)
def test_a_url_is_taken_apart(url, hosts, service, plain):
    found = address(url)
    assert (found.hosts, found.service, found.plain_url) == (hosts, service, plain)
    assert found.tls == url.startswith("rediss")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://x", r"url: expected one of redis://, rediss://, unix://, redis\+sentinel://.*got 'http://x'"),
        ("redis+sentinel://:secret@a,b", r"expected redis\+sentinel://host:port,host:port/service, got '[^:]*://a,b'"),
        ("redis+cluster://a,b/1", r"expected redis\+cluster://host:port,host:port, got 'redis\+cluster://a,b/1'"),
        ("redis+cluster://a:port", r"host:port, got 'redis\+cluster://a:port'"),
        ("redis+cluster://a,,b", r"host:port, got 'redis\+cluster://a,,b'"),
    ],
)
def test_a_wrong_url_says_what_is_expected_and_no_password(url, message):
    with pytest.raises(ValueError, match=message) as caught:
        StoreConfig(url=url)
    assert "secret" not in str(caught.value)


def test_user_password_database_and_tls_reach_every_connection():
    master = connect("rediss+sentinel://me:p%40q@a,b/main/3?sentinel_password=s&ssl_check_hostname=false", 1.5)
    options = master.connection_pool.connection_kwargs
    expected = {"username": "me", "password": "p@q", "db": 3, "socket_timeout": 1.5, "ssl_check_hostname": False}
    assert {name: options[name] for name in expected} == expected
    assert issubclass(master.connection_pool.connection_class, redis.SSLConnection)
    asked = master.connection_pool.sentinel_manager.sentinels[1].connection_pool
    assert asked.connection_kwargs["host"] == "b"
    assert asked.connection_kwargs["password"] == "s"
    assert issubclass(asked.connection_class, redis.SSLConnection)


def test_tls_works_from_end_to_end_and_a_stranger_is_refused(tls_redis_url, tcp_redis_url, tmp_path):
    with RedisStore(tls_redis_url, StoreConfig(namespace=f"tls-{tmp_path.name}")) as store:
        assert store.write_blobs([NewBlob(SEEN, "ann", Version(1), 0, b"x")]) == 1
        with RedisStore(tcp_redis_url, StoreConfig(namespace=store.namespace)) as plain:
            assert plain.read_blobs([(SEEN, "ann")])[0].payload == b"x"
    with pytest.raises(StoreUnavailableError, match=r"(?i)certificate.*verify failed|verify failed.*certificate"):
        open_store(StoreConfig(url=tls_redis_url.partition("?")[0]), Workspace(tmp_path))


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster", "redis+sentinel"])
def test_a_server_that_does_not_answer_says_which_and_no_password(scheme, tmp_path):
    path = "/main" if scheme == "redis+sentinel" else ""
    config = StoreConfig(url=f"{scheme}://:secret@127.0.0.1:1{path}", timeout_s=0.2)
    with pytest.raises(StoreUnavailableError, match=rf"store at {scheme.replace('+', '.')}://127\.0\.0\.1:1") as caught:
        open_store(config, Workspace(tmp_path))
    assert "secret" not in str(caught.value)


def test_after_a_failover_the_new_master_is_read_and_written(tmp_path):
    with sentinel(tmp_path) as (url, master), RedisStore(url, StoreConfig(timeout_s=1.0)) as store:
        store.write_blobs([NewBlob(SEEN, "ann", Version(1, 5), 0, b"before")])
        assert store.client.wait(1, 10_000) == 1  # the replica has it
        master.kill()
        master.wait(10)
        with pytest.raises(StoreUnavailableError):
            store.read_blobs([(SEEN, "ann")])

        def promoted() -> bool:
            try:
                return store.write_blobs([NewBlob(SEEN, "bob", Version(1, 1), 0, b"after")]) == 1
            except StoreUnavailableError:
                return False

        eventually(promoted, "the replica became the master")
        assert [held.payload for held in store.read_blobs([(SEEN, "ann"), (SEEN, "bob")])] == [b"before", b"after"]
        assert store.write_blobs([NewBlob(SEEN, "ann", Version(1, 4), 0, b"late")]) == 0  # versions went with it


def test_a_node_that_forgot_the_script_is_told_it_again(cluster_redis_url, tmp_path):
    with RedisStore(cluster_redis_url, StoreConfig(namespace=f"script-{tmp_path.name}")) as store:
        blobs = [NewBlob(SEEN, f"u{number}", Version(1, 1), 0, b"x") for number in range(50)]
        assert store.write_blobs(blobs) == 50
        for primary in store.client.get_primaries():
            store.client.get_redis_connection(primary).script_flush()
        assert store.write_blobs(blobs) == 50
        assert len(store.read_blobs([(SEEN, blob.entity) for blob in blobs])) == 50


def test_a_cluster_keeps_all_views_of_an_entity_on_one_node(cluster_redis_url):
    with RedisStore(cluster_redis_url, StoreConfig()) as store:
        slots = {store.client.keyslot(store.keys.blob(7, view, "ann")) for view in ("history", "state", "user", "seen")}
        assert slots == {store.client.keyslot("ann")}


@pytest.mark.parametrize(("kind", "said"), [("tcp", ""), ("sentinel", ""), ("cluster", ", 3 nodes")])
def test_the_doctor_reaches_every_kind_of_redis(kind, said, request, monkeypatch):
    url = request.getfixturevalue(f"{kind}_redis_url")
    monkeypatch.setenv("PAGEWISE_PROBE_REDIS", url)
    assert re.fullmatch(rf"redis [\d.]+ at {re.escape(url)}{said}", PROBES["redis"]())


def test_the_doctor_names_a_server_that_drops_entries_and_no_password(tmp_path, monkeypatch):
    port = free_port()
    with one_server(tmp_path, port, "--requirepass", "secret", "--maxmemory-policy", "allkeys-lru"):
        monkeypatch.setenv("PAGEWISE_PROBE_REDIS", f"redis://:secret@127.0.0.1:{port}")
        said = PROBES["redis"]()
    assert "secret" not in said
    assert said.endswith(
        f"at redis://127.0.0.1:{port}; its allkeys-lru loses features when memory is short: set noeviction"
    )
