"""Packed blobs of entities on any Redis: one round trip per read, guarded writes, generations, leases.

What the blobs hold is the business of `redis_store`, and of the stream.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Self

import redis

from features.secrets import without_passwords
from features.store.base import STATE, USER_VIEWS, Freshness, Held, NewBlob, StoreUnavailableError
from features.store.codec import CorruptBlobError, layouts, pack, state_schema, unpack
from features.store.config import StoreConfig
from features.store.connections import ERRORS, Client, connect, server_of
from features.store.generations import Generations
from features.store.keys import Keys
from features.store.leases import RedisLease

WRITE_CHUNK = 200
"""Keys written per round trip: enough to hide the round trip; other clients of the server wait about a millisecond."""
READ_CHUNK = 5000
"""Keys per MGET; Redis answers nobody else meanwhile (1000 keys of 512 bytes take about a millisecond)."""

_SECONDS_PER_DAY = 86_400
_LIST_USER = re.compile(rb'"user_id": ?("(?:[^"\\]|\\.)*")')


class BlobStore:
    """The part of an `OnlineStore` (see `features.store.base`) that does not depend on what the views hold.

    `features.store.keys` names its keys. Arguments and errors are those of `RedisStore`.

    Attributes:
        url: What `url` was; other processes may open the same store with it.
        namespace: First part of every key.
        keys: Names of the keys.
        corrupted: Damaged or foreign blobs met so far; each was treated as missing.
    """

    def __init__(self, url: str, config: StoreConfig, on_close: Callable[[], None] | None = None) -> None:
        self.url = url
        self.corrupted = 0
        self.namespace = config.namespace
        self.keys = Keys(config.namespace)
        self._on_close = on_close
        self._ttl = max(1, round(config.ttl_days * _SECONDS_PER_DAY))
        self._layouts = layouts()
        with self._answering():
            self._server = server_of(connect(url, config.timeout_s))
        self._generations = Generations(self._server, self.keys)

    @property
    def client(self) -> Client:
        """The Redis client, for keys that are not the store's."""
        return self._server.client

    def read_blobs(self, wanted: Sequence[tuple[str, str]], *, generation: int | None = None) -> list[Held | None]:
        """Return what is held for each (view, entity)."""
        return self._found(wanted, generation)

    def write_blobs(self, blobs: Iterable[NewBlob]) -> int:
        """Write each blob unless its key holds one of a later version; return how many were written."""
        packed = self._packed(blobs)
        with self._server.replacing(self._ttl) as writing:
            while chunk := list(itertools.islice(packed, WRITE_CHUNK)):
                with self._answering():
                    writing.send(chunk)
            with self._answering():
                return writing.finish()

    def generations(self) -> tuple[int, int | None]:
        """Return the generation that is read, and the one that is complete and waits to be read, if any."""
        with self._answering():
            return self._generations.current()

    def new_generation(self) -> int:
        """Return a number that no generation had before."""
        with self._answering():
            return self._generations.begin()

    def announce(self, generation: int) -> None:
        """Let this generation, complete by now, be the one that waits to be read."""
        with self._answering():
            self._generations.announce(generation)

    def flip(self, generation: int) -> bool:
        """Read the waiting generation from now on; False, and nothing changes, if it is another one by now."""
        with self._answering():
            return self._generations.flip(generation)

    def some_entities(self, view: str, count: int) -> list[str]:
        """Return up to `count` entities that the active generation of a view holds, in no order."""
        with self._answering():
            return self._generations.some(view, count)

    def remove_old_generations(self) -> int:
        """Remove all entries but those of the active and the waiting generation; return how many there were."""
        with self._answering():
            return self._generations.remove_old()

    def remove_users(self, user_ids: Iterable[str]) -> int:
        """Remove what any generation, also one that is being filled, holds of these users; return how many blobs."""
        removed = 0
        with self._answering():
            below = self._generations.all()
            for user in user_ids:
                keys = [self.keys.blob(generation, view, user) for generation in below for view in USER_VIEWS]
                removed += int(self.client.unlink(*keys))
        return removed

    def remove_lists(self, user_ids: Sequence[str]) -> int:
        """Remove the ranked lists that the service keeps for these users' cursors; return how many entries.

        They expire by themselves, but that does not take them out of Redis's append-only file.
        """
        users, removed = set(user_ids), 0
        with self._answering():
            for primary in self._server.primaries():
                keys = primary.scan_iter(match=self.keys.lists, count=WRITE_CHUNK)
                while piece := list(itertools.islice(keys, WRITE_CHUNK)):
                    reading = primary.pipeline(transaction=False)  # a Cluster's MGET would want keys of one slot
                    for key in piece:
                        reading.get(key)
                    lists = zip(piece, reading.execute(), strict=True)
                    theirs = [key for key, value in lists if _user_of_list(value or b"") in users]
                    removed += int(self.client.unlink(*theirs)) if theirs else 0
        return removed

    def ask_to_forget(self, user_ids: Sequence[str]) -> None:
        """Leave word for the stream's writer that these users are to be forgotten as of now."""
        with self._answering():
            now = self._server.primaries()[0].time()
            moment = now[0] * 1000 + now[1] // 1000
            self.client.hset(self.keys.forgetting, mapping=dict.fromkeys(user_ids, moment))

    def to_be_forgotten(self) -> dict[str, int]:
        """Return the users that `ask_to_forget` named and when, milliseconds of Redis's clock."""
        with self._answering():
            asked = self.client.hgetall(self.keys.forgetting)
        return {user.decode(): int(moment) for user, moment in asked.items()}

    def forgotten(self, user_ids: Sequence[str]) -> None:
        """Take back what `ask_to_forget` said: nothing is left of these users."""
        with self._answering():
            self.client.hdel(self.keys.forgetting, *user_ids)

    def rewrite_files(self) -> None:
        """Let each server write its files anew, without what was removed, where it does that at all."""
        for primary in self._server.primaries():
            with contextlib.suppress(redis.ResponseError):  # it is about to, or keeps no file, or does not let us
                primary.bgrewriteaof()

    def writer_lease(self, name: str, seconds: float, *, wait_s: float = 0.0) -> RedisLease:
        """Become the only writer of this name."""
        with self._answering():
            return RedisLease(self.client, self.keys.lease(name), seconds, wait_s)

    def write_freshness(self, freshness: Freshness, *, generation: int | None = None) -> None:
        """Say what a generation (left out, the active one) holds, after everything has been written."""
        below = self.generations()[0] if generation is None else generation
        with self._answering():
            # goes before the entries do: the daily job then finds that they must be written again
            ttl = max(1, self._ttl // 2)
            self.client.set(self.keys.freshness(below), json.dumps(dataclasses.asdict(freshness)), ex=ttl)

    def write_progress(self, generation: int, position: int, newest_event_time: int | None) -> None:
        """Say up to which position of the stream, and up to which event, everything is folded into a generation."""
        with self._answering():
            self.client.set(self.keys.progress(generation), json.dumps([position, newest_event_time]), ex=self._ttl)

    def progress(self, generation: int) -> int | None:
        """Return the position of the last `write_progress` of a generation, None where there was none."""
        with self._answering():
            (said,) = self._server.read([self.keys.progress(generation)])
        return None if said is None else int(json.loads(said)[0])

    def freshness(self, *, generation: int | None = None) -> Freshness | None:
        """Return what is said of a generation (left out, the active one), None of one without a finished back-fill."""
        below = self.generations()[0] if generation is None else generation
        with self._answering():
            said, progress = self._server.read([self.keys.freshness(below), self.keys.progress(below)])
        if said is None:
            return None
        freshness = Freshness(**json.loads(said))
        return freshness if progress is None else _advanced(freshness, *json.loads(progress))

    def ping(self) -> None:
        """Return if the store answers."""
        with self._answering():
            self._generations.current()

    def close(self) -> None:
        """Let go of all connections; repeating it is harmless."""
        self.client.close()
        if self._on_close is not None:
            self._on_close()
            self._on_close = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _found(self, wanted: Sequence[tuple[str, str]], generation: int | None = None) -> list[Held | None]:
        """Return the blob of each (view, entity), None where there is none that can be read."""
        found: list[Held | None] = []
        for start in range(0, len(wanted), READ_CHUNK):
            chunk = wanted[start : start + READ_CHUNK]
            with self._answering():
                if generation is None:
                    blobs = self._generations.read(chunk)
                else:
                    blobs = self._server.read(self.keys.blobs(generation, chunk))
            found += [self._checked(view, blob) for (view, _), blob in zip(chunk, blobs, strict=True)]
        return found

    def _checked(self, view: str, blob: bytes | None) -> Held | None:
        """Read a blob's header if there is one; a corrupt one counts as missing."""
        try:
            return None if blob is None else unpack(blob, self._layouts[view])
        except CorruptBlobError:
            self.corrupted += 1
            return None

    def _packed(self, blobs: Iterable[NewBlob]) -> Iterator[tuple[str, bytes]]:
        """Yield the key and the bytes of each blob; what neighbours have in common is made once."""
        common, start, schema = ("", 0), "", 0
        for view, entity, version, event_time, payload in blobs:
            if common != (view, version.generation):
                common = (view, version.generation)
                start, schema = self.keys.blob_start(version.generation, view), self._layouts[view]
            layout = state_schema(payload) if view == STATE else schema
            yield f"{start}{entity}}}", pack(layout, version, event_time, payload)

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except ERRORS as error:
            raise StoreUnavailableError(
                f"the online store at {without_passwords(self.url)} does not answer: {error}; start that Redis, "
                "correct store.url, or leave store.url out to use the embedded one"
            ) from error


def _advanced(freshness: Freshness, position: int, newest_event_time: int | None) -> Freshness:
    """Return what holds after the stream has folded more in."""
    times = [moment for moment in (freshness.newest_event_time, newest_event_time) if moment is not None]
    return dataclasses.replace(
        freshness, position=max(freshness.position, position), newest_event_time=max(times, default=None)
    )


def _user_of_list(blob: bytes) -> str | None:
    """Return whose a ranked list is; it names the user in JSON, before anything that somebody else has chosen."""
    named = _LIST_USER.search(blob)
    return None if named is None else json.loads(named[1])
