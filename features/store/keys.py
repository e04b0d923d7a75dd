"""Names of the store's keys in Redis.

::

    {namespace}:v2:pointer                              generation that is read, and the one that waits
    {namespace}:v2:last_generation                      counter
    {namespace}:v2:{generation}:freshness | progress    what a generation holds
    {namespace}:v2:{generation}:{view}:{{entity}}       one blob; the braces are Redis Cluster's hash tag: all views of
                                                        an entity lie on one node
    {namespace}:v2:lease:{name}                         who writes
    {namespace}:v2:forgetting                           users who are to be forgotten, and from which moment on
    {namespace}:cursor:{{token}}:{part}                 ranked lists of the service (`serving.cursors`), for a while
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True, slots=True)
class Keys:
    """Keys of one namespace."""

    namespace: str

    @property
    def prefix(self) -> str:
        """What all keys of this version begin with; `v2` is the version of the keys and of the blobs' header."""
        return f"{self.namespace}:v2"

    @property
    def pointer(self) -> str:
        """Which generation is read."""
        return f"{self.prefix}:pointer"

    @property
    def last_generation(self) -> str:
        """The highest generation that was ever begun."""
        return f"{self.prefix}:last_generation"

    @property
    def lists(self) -> str:
        """Pattern of the service's ranked lists."""
        return f"{self.namespace}:cursor:*"

    def freshness(self, generation: int) -> str:
        """Return the key of what the back-fill said of a generation."""
        return f"{self.prefix}:{generation}:freshness"

    def progress(self, generation: int) -> str:
        """Return the key of how far the stream has got in a generation."""
        return f"{self.prefix}:{generation}:progress"

    def blob(self, generation: int, view: str, entity: str) -> str:
        """Return the key of what is held for one entity."""
        return f"{self.blob_start(generation, view)}{entity}}}"

    def blob_start(self, generation: int, view: str) -> str:
        """Return what comes before the entity in `blob`; behind it a brace is closed."""
        return f"{self.prefix}:{generation}:{view}:{{"

    def blobs(self, generation: int, wanted: Sequence[tuple[str, str]]) -> list[str]:
        """Return `blob` of many (view, entity); the common part is written once."""
        start = f"{self.prefix}:{generation}:"
        return [f"{start}{view}:{{{entity}}}" for view, entity in wanted]

    def entity_of(self, key: bytes) -> str:
        """Return the entity of a blob's key."""
        return key.decode().partition(":{")[2].removesuffix("}")

    def lease(self, name: str) -> str:
        """Return the key that says who is the only writer of something."""
        return f"{self.prefix}:lease:{name}"

    @property
    def forgetting(self) -> str:
        """Who is to be forgotten by the stream."""
        return f"{self.prefix}:forgetting"

    def generation_of(self, key: bytes) -> int | None:
        """Return the generation that one of these keys lies below, None for the others."""
        number = key.removeprefix(f"{self.prefix}:".encode()).partition(b":")[0]
        return int(number) if number.isdigit() else None
