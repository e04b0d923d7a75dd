"""The models of a page maker in processes of their own: what stays, what is asked of others, and how it travels.

Item transitions and the popular list are look-ups in tables; they, the rules, the policy and the store stay with the
process that makes the pages. GenRec and the two-tower model are one stage: they are asked one after the other, and
GenRec may be fed the two-tower model's user vectors. The ranker, with the largest tables, is another. A batch of
requests is one call per model, or, with several replicas of a stage, one per replica. Ray carries the calls between its
own processes; nothing that a user sent is unpickled.
Legend: `B` requests, `K` candidates, `N` items of the catalogue.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Container, Mapping
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from models.recommend.eligibility import Eligibility, Ints, ItemMask, PerMask
from models.recommend.interface import Candidates, RequestBatch
from models.recommend.ranked import POPULAR, RANKER
from models.recommend.recommender import Recommender
from models.recommend.rules import kept_masks
from serving.stage_names import STAGES, Handle


class Response(Protocol):
    """An answer on its way: `ray.serve.handle.DeploymentResponse`."""

    def result(self, *, timeout_s: float | None = None) -> Any:
        """Wait for it."""
        ...

    def cancel(self) -> None:
        """Say that nobody waits any more."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackedMask:
    """A mask on its way, a bit per item; equal masks have equal digests, so that what follows from them is kept.

    Attributes:
        digest: Of the bits.
        items: Number of items `N`.
        bits: `N` bits, eight to a byte.
    """

    digest: bytes
    items: int
    bits: npt.NDArray[np.uint8] = dataclasses.field(compare=False)

    @classmethod
    def of(cls, mask: ItemMask) -> PackedMask:
        """Pack a mask."""
        bits = np.packbits(mask.allowed_N)
        return cls(digest=hashlib.blake2b(bits.tobytes(), digest_size=16).digest(), items=len(mask), bits=bits)

    def unpacked(self, items: int) -> ItemMask:
        """Return the mask over a catalogue of so many items; those that the sender does not know do not pass."""
        allowed_N = np.zeros(items, dtype=bool)
        allowed_N[: self.items] = np.unpackbits(self.bits, count=self.items)
        return ItemMask(allowed_N)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parcel:
    """Requests on their way.

    Attributes:
        items: Of the sender's catalogue; who answers must know all of them.
        requests: `B` requests without `eligible`.
        masks: The distinct masks of `eligible`.
        row_B: Number of each request's mask; None where nothing is filtered, or filters do not matter.
    """

    items: int
    requests: RequestBatch
    masks: tuple[PackedMask, ...] = ()
    row_B: Ints | None = None


class Parcels:
    """Packs requests over one catalogue.

    Args:
        items: Of the catalogue.
    """

    def __init__(self, items: int) -> None:
        self._items = items
        self._packed = PerMask(PackedMask.of)

    def of(self, requests: RequestBatch) -> Parcel:
        """Pack requests with what is eligible for them."""
        plain, eligible = self.plain(requests), requests.eligible
        if eligible is None:
            return plain
        masks = tuple(self._packed(mask) for mask in eligible.masks)
        return dataclasses.replace(plain, masks=masks, row_B=eligible.row_B)

    def plain(self, requests: RequestBatch) -> Parcel:
        """Pack requests for somebody who chooses no items."""
        return Parcel(items=self._items, requests=dataclasses.replace(requests, eligible=None))


class Unpacking:
    """Unpacks requests; keeps the masks asked for lately, and with them what retrievers work out of them.

    Args:
        items: Of the catalogue by now, which bounds how many masks are kept.
    """

    def __init__(self, items: int) -> None:
        self._mask = lru_cache(maxsize=kept_masks(items))(PackedMask.unpacked)

    def __call__(self, parcel: Parcel, items: int) -> RequestBatch:
        """Return the requests as they were, over a catalogue of so many items."""
        if parcel.row_B is None:
            return parcel.requests
        masks = tuple(self._mask(packed, items) for packed in parcel.masks)
        return dataclasses.replace(parcel.requests, eligible=Eligibility(masks=masks, row_B=parcel.row_B))


class Stage:
    """The replicas that answer for one stage of one release.

    Args:
        handle: The way to them.
        replicas: How many there are; a batch is shared out among them.
        timeout_s: Longest wait for their answers, None for any.
    """

    def __init__(self, handle: Handle, replicas: int, timeout_s: float | None) -> None:
        self.handle, self._replicas, self._timeout_s = handle, replicas, timeout_s

    def ask(self, size: int, send: Callable[[npt.NDArray[np.intp]], Response]) -> list[Any]:
        """Return the answers about shares of the requests, in order; whoever is not waited for any more is told so.

        Args:
            size: Number of requests, at least 1.
            send: Asks about the requests of these rows.

        Raises:
            TimeoutError: It took too long.
        """
        ends = None if self._timeout_s is None else time.monotonic() + self._timeout_s
        sent = [send(rows) for rows in np.array_split(np.arange(size), min(self._replicas, size))]
        try:
            return [
                response.result(timeout_s=None if ends is None else max(0.0, ends - time.monotonic()))
                for response in sent
            ]
        except BaseException:
            for response in sent:
                response.cancel()
            raise


class RemoteRetriever:
    """A retriever of a stage."""

    def __init__(self, name: str, stage: Stage, parcels: Parcels) -> None:
        self.name = name
        self._stage, self._parcels = stage, parcels

    def retrieve(self, requests: RequestBatch, k: int) -> Candidates:
        """See `Retriever`."""
        ask = self._stage.handle.retrieve.remote
        found = self._stage.ask(len(requests), lambda rows: ask(self.name, self._parcels.of(requests.take(rows)), k))
        return Candidates(
            items_BK=np.concatenate([part.items_BK for part in found]),
            scores_BK=np.concatenate([part.scores_BK for part in found]),
            source=self.name,
        )


class RemoteRanker:
    """The ranker of a stage."""

    name = RANKER

    def __init__(self, stage: Stage, parcels: Parcels) -> None:
        self._stage, self._parcels = stage, parcels

    def score(self, requests: RequestBatch, items_BK: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """See `Ranker`."""
        ask = self._stage.handle.score.remote
        found = self._stage.ask(
            len(requests), lambda rows: ask(self._parcels.plain(requests.take(rows)), items_BK[rows])
        )
        return np.concatenate(found)


class Split:
    """The models of one release that others answer for.

    Args:
        names: The models that the release has.
        stages: Who answers; what no stage answers for stays.
    """

    def __init__(self, names: Container[str], stages: Mapping[str, Stage]) -> None:
        self._stage_of = {name: stage for kind, stage in stages.items() for name in STAGES[kind] if name in names}

    def rest(self, maker: Recommender) -> Recommender:
        """Return the page maker without them."""
        return with_only(maker, {*maker.retrievers, RANKER} - {*self._stage_of})

    def around(self, rest: Recommender) -> Recommender:
        """Return a page maker that asks others for what this one, made of `rest`, lacks."""
        parcels = Parcels(len(rest.catalogue))
        remote = [RemoteRetriever(name, stage, parcels) for name, stage in self._stage_of.items() if name != RANKER]
        ranking = self._stage_of.get(RANKER)
        return rest.with_parts(
            retrievers=[*rest.retrievers.values(), *remote],
            ranker=None if ranking is None else RemoteRanker(ranking, parcels),
        )


def with_only(maker: Recommender, names: Container[str]) -> Recommender:
    """Return the page maker with the popular list and, of its other retrievers and the ranker, those named."""
    retrievers = [part for name, part in maker.retrievers.items() if name == POPULAR or name in names]
    ranker = maker.ranker if RANKER in names else None
    return Recommender(maker.catalogue, retrievers, maker.config, maker.facts, ranker, maker.blend)
