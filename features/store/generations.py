"""Which generation of keys is read, which one waits, and how old ones go.

The pointer is one key, `active next` (`next` 0 for none). Readers get it with the blobs they ask for, in one round
trip, and ask again where it names another generation than they believed in: a flip costs each reader one repeated read.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from features.store.base import FIRST_GENERATION
from features.store.connections import Server
from features.store.keys import Keys

SCANNED_AT_ONCE, REMOVED_AT_ONCE = 500, 200
"""Keys per command when old generations are removed: other clients of the server wait about a millisecond."""
MOST_SCANS = 20
"""Commands that look for some entities on each server: enough unless hardly any key is one of theirs."""

_ANNOUNCE = """
local active = string.match(redis.call('GET', KEYS[1]) or ARGV[2], '^%d+')
redis.call('SET', KEYS[1], active .. ' ' .. ARGV[1])
"""
_FLIP = """
if string.match(redis.call('GET', KEYS[1]) or '', ' (%d+)$') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1] .. ' 0')
return 1
"""
_BEGIN = """
local last = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), tonumber(ARGV[1])) + 1
redis.call('SET', KEYS[1], string.format('%d', last))
return last
"""


class Generations:
    """The generations of one namespace.

    Attributes:
        active: The generation that the pointer named when it was last seen.
    """

    def __init__(self, server: Server, keys: Keys) -> None:
        self.active = FIRST_GENERATION
        self._server, self._keys = server, keys
        client = server.client
        self._announce, self._flip, self._begin = map(client.register_script, (_ANNOUNCE, _FLIP, _BEGIN))

    def read(self, wanted: Sequence[tuple[str, str]]) -> list[bytes | None]:
        """Return the blob of each (view, entity) in the active generation."""
        while True:
            believed = self.active
            pointer, *blobs = self._server.read([self._keys.pointer, *self._keys.blobs(believed, wanted)])
            self.active, _ = pointed(pointer)
            if self.active == believed:
                return blobs

    def current(self) -> tuple[int, int | None]:
        """Return the active generation, and the one that waits."""
        self.active, waiting = pointed(self._server.read([self._keys.pointer])[0])
        return self.active, waiting

    def all(self) -> range:
        """Return every generation that may hold something: old ones that are still to be removed, too."""
        active, waiting = self.current()
        last = self._server.read([self._keys.last_generation])[0]
        return range(FIRST_GENERATION, max(active, waiting or 0, int(last or 0)) + 1)

    def begin(self) -> int:
        """Return the number of a new generation."""
        active, waiting = self.current()
        return int(self._begin(keys=[self._keys.last_generation], args=[max(active, waiting or 0)]))

    def announce(self, generation: int) -> None:
        """Let a generation wait to be read."""
        self._announce(keys=[self._keys.pointer], args=[generation, FIRST_GENERATION])

    def flip(self, generation: int) -> bool:
        """Make the waiting generation the active one; False if it does not wait."""
        return bool(self._flip(keys=[self._keys.pointer], args=[generation]))

    def some(self, view: str, count: int) -> list[str]:
        """Return up to `count` entities of a view, in no order; a part of the keys is looked at only."""
        pattern, found = self._keys.blob(self.current()[0], view, "*"), dict[str, None]()
        for primary in self._server.primaries():
            cursor = 0
            for _ in range(MOST_SCANS):
                cursor, keys = primary.scan(cursor, match=pattern, count=SCANNED_AT_ONCE)
                found |= dict.fromkeys(map(self._keys.entity_of, keys))
                if cursor == 0 or len(found) >= count:
                    break
        return list(found)[:count]

    def remove_old(self) -> int:
        """Remove all keys of generations that are neither active nor waiting, and return how many there were."""
        kept, removed = {*self.current()}, 0
        for primary in self._server.primaries():
            keys = primary.scan_iter(match=f"{self._keys.prefix}:*", count=SCANNED_AT_ONCE)
            old = (key for key in keys if self._keys.generation_of(key) not in {None, *kept})
            while piece := list(itertools.islice(old, REMOVED_AT_ONCE)):
                removed += int(self._server.client.unlink(*piece))
        return removed


def pointed(pointer: bytes | None) -> tuple[int, int | None]:
    """Return the active and the waiting generation that a pointer names; without a pointer, the first is active."""
    if pointer is None:
        return FIRST_GENERATION, None
    active, waiting = map(int, pointer.split())
    return active, waiting or None
