"""What is known of a user, for people to look at: `GET /v1/users/{user_id}`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, FastAPI, Query
from pydantic import BaseModel, Field

from features.schemas import EVENT_KINDS
from features.store.base import HISTORY, KnownUsers
from models.recommend.interface import NO_ITEM
from models.recommend.recommender import Recommender
from serving.api import Id, error_responses
from serving.id_paths import utf8_only

if TYPE_CHECKING:
    from serving.backend import Backend

MOST_HISTORY = 200


class HistoryItem(BaseModel):
    """One event of a history."""

    item_id: str
    title: str | None = Field(description="Null for an item that the release does not know.")
    event: str
    timestamp: int = Field(description="Milliseconds since 1970 UTC.")


class UserResponse(BaseModel):
    """What is known of a user, newest event first."""

    user_id: str
    known: bool = Field(description="Whether anything is.")
    history: list[HistoryItem]
    newest_event_time: int | None = Field(description="Of the history, milliseconds since 1970 UTC.")
    position: int = Field(description="Position of the stream up to which events are in the history, 0 for none.")
    age_s: float | None = Field(description="Seconds since the newest event.")


def user_response(users: KnownUsers, maker: Recommender, now: int) -> UserResponse:
    """Describe the only one of `users`.

    Args:
        users: One user, history and freshness.
        maker: Knows titles.
        now: Milliseconds since 1970 UTC.
    """
    histories = users.histories
    numbers = maker.catalogue.numbers(histories.item_ids)
    titles = maker.facts.table["title"]
    history = [
        HistoryItem(
            item_id=item,
            title=None if number == NO_ITEM else titles[number].as_py(),
            event=EVENT_KINDS[event],
            timestamp=time,
        )
        for item, number, event, time in zip(
            histories.item_ids.to_pylist(),
            numbers.tolist(),
            histories.events.tolist(),
            histories.times.tolist(),
            strict=True,
        )
    ]
    newest = history[-1].timestamp if history else None
    fresh = users.freshness.get(HISTORY)
    return UserResponse(
        user_id=histories.user_ids[0],
        known=bool(history) or users.states[0] is not None or users.attributes[0] is not None,
        history=history[::-1],
        newest_event_time=newest,
        position=0 if fresh is None else int(fresh.positions[0]),
        age_s=None if newest is None else max(0.0, (now - newest) / 1000),
    )


def add_users(api: FastAPI, backend: Backend) -> None:
    """Add the route."""

    @api.get("/v1/users/{user_id:id}", responses=error_responses(422, 503), dependencies=[Depends(utf8_only)])
    async def user(
        user_id: Id,
        limit: Annotated[int, Query(ge=1, le=MOST_HISTORY, description="Newest events returned.")] = 50,
    ) -> UserResponse:
        """Return a user's history; of an unknown one it is empty."""
        return await backend.user(user_id, limit)
