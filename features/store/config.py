"""Options of the online store; imports nothing heavy."""

from __future__ import annotations

import dataclasses
from typing import Literal
from urllib.parse import urlsplit

from features.secrets import without_passwords

ONE, SENTINEL, CLUSTER = "one", "sentinel", "cluster"
URL_SCHEMES = {
    "redis": ONE,
    "rediss": ONE,
    "unix": ONE,
    "redis+sentinel": SENTINEL,
    "rediss+sentinel": SENTINEL,
    "redis+cluster": CLUSTER,
    "rediss+cluster": CLUSTER,
}
DEFAULT_PORTS = {ONE: 6379, SENTINEL: 26379, CLUSTER: 6379}


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoreConfig:
    """Where online features live and how long they are kept."""

    url: str | None = None
    """`redis://`, `rediss://` (TLS) or `unix://` URL; `redis+sentinel://host:port,host:port/service` asks Sentinels for
    the master, `redis+cluster://host:port,host:port` is a Redis Cluster (`rediss+...` with TLS); none starts an
    embedded Redis for this workspace."""

    namespace: str = "pagewise"
    """First part of every key: several workspaces may share one Redis under different names."""

    ttl_days: float = 90.0
    """Days after its last write when an entry expires."""

    history_length: int = 200
    """Newest events kept per user (positive events and dislikes)."""

    timeout_s: float = 2.0
    """Seconds to wait for Redis to accept a connection or to answer; the service waits at most a quarter of its
    `request_timeout_s`."""

    durability: Literal["everysec", "always"] = "everysec"
    """When the embedded Redis writes to disk: `everysec` loses at most a second of writes when the machine loses power
    (none when a process is killed), `always` none, at the disk's speed. Any other Redis has its own setting."""

    def __post_init__(self) -> None:
        """Collect every mistake into one error."""
        mistakes = []
        if self.url is not None:
            try:
                address(self.url)
            except ValueError as error:
                mistakes.append(str(error))
        if not self.namespace or set(self.namespace) & set(":{}*?[]\\"):
            mistakes.append(
                f"namespace: expected a name without colons, brackets, stars, question marks and backslashes, "
                f"got {self.namespace!r}"
            )
        for name in ("ttl_days", "history_length", "timeout_s"):
            if getattr(self, name) <= 0:
                mistakes.append(f"{name}: expected a positive number, got {getattr(self, name)}")
        if self.durability not in ("everysec", "always"):
            mistakes.append(f"durability: expected everysec or always, got {self.durability!r}")
        if mistakes:
            raise ValueError("store: " + "; ".join(mistakes))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Address:
    """A store's URL, taken apart.

    Attributes:
        kind: `one`, `sentinel` or `cluster`.
        tls: Whether connections are encrypted.
        hosts: Of the Sentinels, or some of the cluster's nodes; empty for one server.
        service: Name of the master that the Sentinels watch, else empty.
        plain_url: The same user, password, database and options in a URL of one server.
    """

    kind: str
    tls: bool
    hosts: tuple[tuple[str, int], ...] = ()
    service: str = ""
    plain_url: str = ""


def address(url: str) -> Address:
    """Take a store's URL apart.

    Raises:
        ValueError: It is none of a Redis; the message begins with `url:`.

    Example:
        >>> address("redis+sentinel://:secret@a:26379,b/main/2").hosts
        (('a', 26379), ('b', 26379))
    """
    scheme, _, rest = url.partition("://")
    kind = URL_SCHEMES.get(scheme)
    if kind is None:
        raise ValueError(
            f"url: expected one of {', '.join(f'{known}://' for known in URL_SCHEMES)}, or nothing for embedded, "
            f"got {without_passwords(url)!r}"
        )
    tls = scheme.startswith("rediss")
    if kind == ONE:
        return Address(kind=kind, tls=tls, plain_url=url)
    # several hosts are no valid authority: user and password are cut off before, the path and the query after
    parts = urlsplit(f"{scheme}://{rest.rpartition('@')[2]}")
    credentials, at, _ = rest.rpartition("@")
    service, _, database = parts.path.strip("/").partition("/")
    wants = "host:port,host:port/service" if kind == SENTINEL else "host:port,host:port"
    try:
        hosts = tuple(_host(part, DEFAULT_PORTS[kind]) for part in parts.netloc.split(","))
        if (kind == SENTINEL) != bool(service):  # a cluster has neither services nor databases
            raise ValueError
    except ValueError:
        raise ValueError(f"url: expected {scheme}://{wants}, got {without_passwords(url)!r}") from None
    query = f"?{parts.query}" if parts.query else ""
    plain = f"{'rediss' if tls else 'redis'}://{credentials}{at}{parts.netloc.split(',')[0]}/{database}{query}"
    return Address(kind=kind, tls=tls, hosts=hosts, service=service, plain_url=plain)


def _host(text: str, port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError
    return parts.hostname, parts.port or port
