"""One Redis server, a master that Sentinels name, or a cluster: what the store needs of each, in one round trip a call.

A cluster's keys lie on several nodes: requests to all of them are sent before the first answer is awaited.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, Self, TypeAlias

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.commands.core import Script
from redis.connection import parse_url
from redis.crc import key_slot
from redis.exceptions import NoScriptError, RedisClusterException
from redis.retry import Retry
from redis.sentinel import Sentinel

from features.store.config import Address, address

Client: TypeAlias = redis.Redis | redis.RedisCluster
ERRORS = (redis.RedisError, RedisClusterException, OSError)
"""What a client raises when its server does not answer; that of a cluster is no `RedisError`."""

GUARD = """
local function later(held, new)
  local a1, a2, a3, a4 = struct.unpack('>I4I4I4I4', held)
  local b1, b2, b3, b4 = struct.unpack('>I4I4I4I4', new)
  if a1 ~= b1 then return a1 > b1 end
  if a2 ~= b2 then return a2 > b2 end
  if a3 ~= b3 then return a3 > b3 end
  return a4 > b4
end
local written = 0
for i, key in ipairs(KEYS) do
  local blob = ARGV[i + 1]
  local held = redis.call('GETRANGE', key, 4, 19)
  if #held < 16 or not later(held, string.sub(blob, 5, 20)) then
    redis.call('SET', key, blob, 'EX', ARGV[1])
    written = written + 1
  end
end
return written
"""
"""Sets each key unless it holds a blob of a later (generation, position); bytes 4 to 19 of the header, big-endian.
Compared as numbers: Lua compares text as the server's locale would sort it."""


class Server(Protocol):
    """What the store does with Redis in bulk; everything else goes through `client`."""

    client: Client

    def read(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values of keys."""
        ...

    def replacing(self, ttl_s: int) -> Replacing:
        """Return what writes (key, blob) unless the key holds a later one."""
        ...

    def primaries(self) -> list[redis.Redis]:
        """Return a client of each server that holds keys of its own."""
        ...


class Replacing(Protocol):
    """Chunks of (key, blob) on their way to the servers; end it with `finish`, and leave the block."""

    def send(self, chunk: Sequence[tuple[str, bytes]]) -> None:
        """Send a chunk; it may not be there before `finish`."""
        ...

    def finish(self) -> int:
        """Wait until everything is written, and return how many blobs were."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


class OneServer:
    """A server by itself, or the master that Sentinels name."""

    def __init__(self, client: redis.Redis) -> None:
        self.client: Client = client
        self._one = client
        self._guard = client.register_script(GUARD)

    def read(self, keys: Sequence[str]) -> list[bytes | None]:
        """See `Server`."""
        found: list[bytes | None] = self._one.mget(keys)
        return found

    def replacing(self, ttl_s: int) -> Replacing:
        """See `Server`."""
        return _ReplacingOnOne(self._one, self._guard, ttl_s)

    def primaries(self) -> list[redis.Redis]:
        """See `Server`."""
        return [self._one]


class _ReplacingOnOne:
    """See `Replacing`: while the server works on a chunk, the caller makes the next one."""

    def __init__(self, client: redis.Redis, guard: Script, ttl_s: int) -> None:
        self._pool, self._guard, self._ttl = client.connection_pool, guard, ttl_s
        self._connection: Any = None
        self._sent: Sequence[tuple[str, bytes]] = ()
        self._written = 0

    def send(self, chunk: Sequence[tuple[str, bytes]]) -> None:
        """See `Replacing`."""
        self._receive()
        if self._connection is None:
            self._connection = self._pool.get_connection()
        self._sent = chunk
        keys, values = zip(*chunk, strict=True)
        self._connection.send_command("EVALSHA", self._guard.sha, len(keys), *keys, self._ttl, *values)

    def finish(self) -> int:
        """See `Replacing`."""
        self._receive()
        return self._written

    def _receive(self) -> None:
        if not self._sent:
            return
        try:
            written = self._connection.read_response()
        except NoScriptError:
            keys, values = zip(*self._sent, strict=True)
            written = self._guard(keys=keys, args=[self._ttl, *values])
        self._sent = ()
        self._written += int(written)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._connection is not None:
            if self._sent:  # its answer must not be taken for that of the connection's next command
                self._connection.disconnect()
            self._pool.release(self._connection)


class Cluster:
    """A Redis Cluster."""

    def __init__(self, client: redis.RedisCluster) -> None:
        self.client: Client = client
        self._cluster = client
        self._guard = ""

    def read(self, keys: Sequence[str]) -> list[bytes | None]:
        """See `Server`."""
        pipeline = self._cluster.pipeline()
        for key in keys:
            pipeline.get(key)
        found: list[bytes | None] = pipeline.execute()
        return found

    def replacing(self, ttl_s: int) -> Replacing:
        """See `Server`."""
        return _ReplacingOnCluster(self, ttl_s)

    def replace(self, blobs: Sequence[tuple[str, bytes]], ttl_s: int) -> int:
        """Write (key, blob) unless the key holds a later one; a call of the script gets the keys of one slot."""
        by_slot: dict[int, list[tuple[str, bytes]]] = {}
        for key, blob in blobs:
            by_slot.setdefault(key_slot(key.encode()), []).append((key, blob))
        try:
            return self._replace(by_slot.values(), ttl_s)
        except NoScriptError:  # the first time, and on a node that was started again; written keys are written again
            for primary in self.primaries():
                self._guard = str(primary.script_load(GUARD))
            return self._replace(by_slot.values(), ttl_s)

    def primaries(self) -> list[redis.Redis]:
        """See `Server`."""
        nodes = self._cluster.get_primaries()
        return [self._cluster.get_redis_connection(node) for node in nodes]

    def _replace(self, parts: Iterable[Sequence[tuple[str, bytes]]], ttl_s: int) -> int:
        if not self._guard:
            raise NoScriptError
        pipeline = self._cluster.pipeline()
        for part in parts:
            keys, blobs = zip(*part, strict=True)
            pipeline.execute_command("EVALSHA", self._guard, len(keys), *keys, ttl_s, *blobs)
        return sum(pipeline.execute())


class _ReplacingOnCluster:
    """See `Replacing`; a chunk goes to all nodes at once, and their answers are awaited."""

    def __init__(self, cluster: Cluster, ttl_s: int) -> None:
        self._cluster, self._ttl, self._written = cluster, ttl_s, 0

    def send(self, chunk: Sequence[tuple[str, bytes]]) -> None:
        """See `Replacing`."""
        self._written += self._cluster.replace(chunk, self._ttl)

    def finish(self) -> int:
        """See `Replacing`."""
        return self._written

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing is held."""


def connect(url: str, timeout_s: float) -> Client:
    """Return a client for a URL that `features.store.config` accepts; nothing is sent yet but to a cluster.

    Args:
        url: See `StoreConfig.url`.
        timeout_s: Seconds to wait for a connection and for each answer.

    Raises:
        ERRORS: A cluster that does not answer.
        ValueError: The URL is none of a Redis.
    """
    target = address(url)
    options: dict[str, Any] = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    # a connection that the server closed is opened again once; more would only delay the fallback page
    retry = Retry(NoBackoff(), 1)
    if target.kind == "one":
        return redis.Redis.from_url(url, **options, retry=retry)
    options |= _of_url(target)
    if target.kind == "cluster":
        nodes = [ClusterNode(host, port) for host, port in target.hosts]
        return redis.RedisCluster(startup_nodes=nodes, **options, retry=retry)
    return _master(target, options, retry)


def server_of(client: Client) -> Server:
    """Return what the store does with the servers of a client."""
    return Cluster(client) if isinstance(client, redis.RedisCluster) else OneServer(client)


def _of_url(target: Address) -> dict[str, Any]:
    """Return user, password, database and the query's options (such as `ssl_ca_certs`) as a client takes them."""
    options: dict[str, Any] = dict(parse_url(target.plain_url))
    for unused in ("host", "port", "connection_class"):
        options.pop(unused, None)
    return options | ({"ssl": True} if target.tls else {})


def _master(target: Address, options: dict[str, Any], retry: Retry) -> redis.Redis:
    """Return a client that asks the Sentinels for the master whenever it connects."""
    sentinel_password = options.pop("sentinel_password", None)
    asked = {name: value for name, value in options.items() if name not in ("username", "password", "db")}
    asked |= {"password": sentinel_password, "retry": Retry(NoBackoff(), 0)}  # the next Sentinel is asked instead
    sentinels = Sentinel(target.hosts, sentinel_kwargs=asked, **options)
    master: redis.Redis = sentinels.master_for(target.service, retry=retry)
    return master
