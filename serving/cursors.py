"""Cursors: one ranked list, continued page by page.

A cursor is a random token. What it stands for lies in Redis for some time: before its page is made, the list that the
page is drawn from and what earlier pages of it have shown; once it is made, the answer itself, for good: whoever asks
again gets the same page. Two who ask at once get the page of the one who was first.

Keys are `{namespace}:cursor:{{token}}:before` and `...:page`; the braces keep both on one node of a Redis Cluster.
Legend: `F` candidates, `R` sources.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import secrets
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import redis

from features.store.base import Histories, StoreUnavailableError
from features.store.connections import ERRORS, Client
from models.recommend.fusion import Fused
from serving.api import ApiError, RecommendRequest, RecommendResponse

TOKEN_BYTES = 24
MOST_SHOWN = 1000
"""Items after which a list ends: a cursor's entry, and what its next page must leave out, would grow without end."""

_FORMAT = 1
_HEADER = struct.Struct("<BI")
_KINDS: dict[str, type[np.generic]] = {
    "items_BF": np.int32,
    "scores_BF": np.float32,
    "parts_BFR": np.float32,
    "named_BF": np.int8,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What was asked for a list's first page; it holds for all of its pages."""

    user_id: str
    page_size: int
    filters: dict[str, Any] | None
    context: dict[str, str] | None

    @classmethod
    def of(cls, request: RecommendRequest, page_size: int) -> Asked:
        """Return what a request without a cursor asks.

        Args:
            request: The request.
            page_size: Its own or, where it has none, the release's.
        """
        filters = None if request.filters is None else request.filters.model_dump()
        return cls(user_id=request.user_id, page_size=page_size, filters=filters, context=request.context)

    def check(self, request: RecommendRequest) -> None:
        """Refuse a request with a cursor of this list that asks for something else.

        Raises:
            ApiError: 400.
        """
        if request.user_id != self.user_id:
            raise ApiError(
                400,
                "foreign_cursor",
                f"the cursor belongs to the list of another user than user_id = {request.user_id!r}; ask with the "
                "user_id of its first page, or leave the cursor out to begin a list",
            )
        given = Asked.of(request, request.page_size or self.page_size)
        for name in ("page_size", "filters", "context"):
            now, then = getattr(given, name), getattr(self, name)
            if getattr(request, name) is not None and now != then:
                raise ApiError(
                    400,
                    "other_list",
                    f"{name}: expected {then!r}, as for the first page of this cursor's list, or nothing, got {now!r}; "
                    "leave the cursor out to begin another list",
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Continuation:
    """What the next page of a list is made from.

    Attributes:
        asked: What was asked for the list's first page.
        request_id: Of the page to come; its exploration follows from it.
        release, delta: What the list was ranked with.
        mark: The user's history then (`history_marks`).
        fallback: What stood in for the first choice then.
        shown: Items of all pages so far.
        ranking: The candidates (`B = 1`); None where the next page is to be ranked anew.
        complete: Whether there is nothing to show beyond `ranking`.
    """

    asked: Asked
    request_id: str
    release: str
    delta: int
    mark: str
    fallback: str | None
    shown: tuple[str, ...]
    ranking: Fused | None
    complete: bool

    def to_bytes(self) -> bytes:
        """Encode for Redis."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields["asked"] = dataclasses.asdict(self.asked)
        ranking, arrays = fields.pop("ranking"), b""
        if ranking is not None:
            fields |= {"sources": ranking.sources, "candidates": ranking.items_BF.shape[1]}
            arrays = b"".join(getattr(ranking, name).astype(kind).tobytes() for name, kind in _KINDS.items())
        text = json.dumps(fields, separators=(",", ":")).encode()
        return _HEADER.pack(_FORMAT, len(text)) + text + arrays

    @classmethod
    def from_bytes(cls, blob: bytes) -> Continuation | None:
        """Decode; None where another version of this service wrote it."""
        version, length = _HEADER.unpack_from(blob)
        if version != _FORMAT:
            return None
        fields, arrays = json.loads(blob[_HEADER.size : _HEADER.size + length]), blob[_HEADER.size + length :]
        sources, size = tuple(fields.pop("sources", ())), fields.pop("candidates", None)
        fields["asked"], fields["shown"] = Asked(**fields["asked"]), tuple(fields["shown"])
        return cls(**fields, ranking=None if size is None else _ranking(arrays, sources, size))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MadePage:
    """A page that is about to be answered.

    Attributes:
        asked: What was asked for its list.
        cursor: The cursor that it answers, None for a list's first page.
        page: The answer.
        then: What the page's `next_cursor` stands for; None where it has none.
    """

    asked: Asked
    cursor: str | None
    page: RecommendResponse
    then: Continuation | None


class CursorsRefusedError(StoreUnavailableError):
    """Redis answers, but takes nothing: on a full disk, for example."""


class Cursors:
    """Cursors in Redis, next to the online store.

    Args:
        client: A connected client.
        namespace: First part of every key.
        ttl_s: Seconds for which a cursor can be asked for.
    """

    def __init__(self, client: Client, namespace: str, ttl_s: float) -> None:
        self._client, self._namespace = client, namespace
        self._ttl_s = max(1, round(ttl_s))

    def read(self, requests: Sequence[RecommendRequest]) -> list[Continuation | RecommendResponse | ApiError]:
        """Return what each cursor stands for: its page, if that has been made, else what it is made from.

        All are read in one round trip. In place of one that cannot be used stands the error to answer.

        Args:
            requests: All with a cursor.

        Raises:
            StoreUnavailableError: Redis does not answer.
        """
        pipeline = self._client.pipeline(transaction=False)
        for request in requests:
            pipeline.get(self._key(request.cursor, "page"))
            pipeline.get(self._key(request.cursor, "before"))
        found = _execute(pipeline)
        rows = zip(requests, found[::2], found[1::2], strict=True)
        return [self._stands_for(request, page, before) for request, page, before in rows]

    def keep(self, pages: Sequence[MadePage]) -> list[RecommendResponse]:
        """Keep pages and what their next cursors stand for; return the page to answer in place of each.

        That is another one where somebody else was the first to answer the same cursor.

        Raises:
            CursorsRefusedError: Redis keeps nothing.
            StoreUnavailableError: Redis does not answer.
        """
        pipeline, answered = self._client.pipeline(transaction=False), []
        for made in pages:
            if made.then is not None:
                pipeline.set(self._key(made.page.next_cursor, "before"), made.then.to_bytes(), ex=self._ttl_s)
            if made.cursor is not None:
                key, page = self._key(made.cursor, "page"), made.page.model_dump()
                blob = json.dumps({"asked": dataclasses.asdict(made.asked), "page": page})
                pipeline.set(key, blob, ex=self._ttl_s, nx=True)
                pipeline.get(key)
            answered.append(len(pipeline) - 1)
        found = _execute(pipeline) if len(pipeline) else []
        return [
            made.page if made.cursor is None else RecommendResponse(**json.loads(found[place])["page"])
            for made, place in zip(pages, answered, strict=True)
        ]

    def _stands_for(
        self, request: RecommendRequest, page: bytes | None, before: bytes | None
    ) -> Continuation | RecommendResponse | ApiError:
        then = None if before is None else Continuation.from_bytes(before)
        try:
            if page is not None:
                document = json.loads(page)
                Asked(**document["asked"]).check(request)
                return RecommendResponse(**document["page"])
            if then is not None:
                then.asked.check(request)
                return then
        except ApiError as error:
            return error
        return ApiError(
            410,
            "cursor_expired",
            f"the cursor is unknown or older than {self._ttl_s} s; leave it out to begin a new list",
        )

    def _key(self, token: str | None, part: str) -> str:
        return f"{self._namespace}:cursor:{{{token}}}:{part}"


def new_token() -> str:
    """Return a cursor that nobody can guess."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def history_marks(histories: Histories) -> list[str]:
    """Return a short text for each user's history that changes whenever the history does."""
    marks = []
    for first, end in itertools.pairwise(histories.offsets.tolist()):
        digest = hashlib.blake2b(digest_size=12)
        for column in (histories.times, histories.events):
            digest.update(column[first:end].tobytes())
        digest.update("\0".join(histories.item_ids[first:end].to_pylist()).encode())
        marks.append(digest.hexdigest())
    return marks


def _ranking(arrays: bytes, sources: tuple[str, ...], size: int) -> Fused:
    shapes = {
        "items_BF": (1, size),
        "scores_BF": (1, size),
        "parts_BFR": (1, size, len(sources)),
        "named_BF": (1, size),
    }
    read, start = dict[str, npt.NDArray[Any]](), 0
    for name, kind in _KINDS.items():
        count = math.prod(shapes[name])
        read[name] = np.frombuffer(arrays, kind, count, start).reshape(shapes[name])
        start += count * np.dtype(kind).itemsize
    return Fused(
        items_BF=read["items_BF"].astype(np.int64),
        scores_BF=read["scores_BF"],
        parts_BFR=read["parts_BFR"],
        sources=sources,
        named_BF=read["named_BF"].astype(np.int64),
    )


def _execute(pipeline: Any) -> list[Any]:
    try:
        found: list[Any] = pipeline.execute()
        return found
    except redis.ResponseError as error:
        raise CursorsRefusedError(f"the Redis that keeps cursors takes nothing: {error}") from error
    except ERRORS as error:
        raise StoreUnavailableError(f"the Redis that keeps cursors does not answer: {error}") from error
