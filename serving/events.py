"""What clients report: `POST /v1/events` puts events on the stream and says of each whether it was accepted.

An accepted event is on the stream, as durable as that is, when the answer comes; what becomes of it there (a duplicate,
too late) the pipeline decides. A rejected one is told why, and sent along as it came, for the dead letters. Sending it
again is harmless: events have keys (`event_id`, or what happened to whom when), and the pipeline drops what it has had.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import Body, FastAPI, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from features import schemas
from features.mistakes import REASONS, first_column, reason_of
from features.schemas import EVENT_KINDS, LARGEST_NUMBER, PURCHASE
from features.stream.base import EventStream, StreamFullError
from features.stream.records import DETAIL, EVENTS, REJECTED, ROW, StreamRecord
from serving.api import ApiError, Context, ErrorResponse, Id, NonEmpty, describe, error_responses
from serving.fallbacks import Rest
from serving.metrics import ServiceMetrics

if TYPE_CHECKING:
    from serving.backend import Backend

MOST_EVENTS = 1000
"""Events of one request."""
EARLIEST_MS, LATEST_MS = 10**11, int(dt.datetime(2100, 1, 1, tzinfo=dt.UTC).timestamp() * 1000)
"""Times before 1973 are taken for seconds, times from 2100 on for mistakes."""
REJECTED_CHARACTERS = 4000
"""So much of a rejected event is kept."""
STREAM_REST_S = 1.0
"""After an append that the stream did not take, events are refused at once for so long."""

_log = logging.getLogger(__name__)


class EventSpec(BaseModel):
    """One event: a row of the table `events`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    user_id: Id
    item_id: Id
    event: Literal[EVENT_KINDS]  # type: ignore[valid-type]
    timestamp: int = Field(description="Milliseconds since 1970 UTC, or ISO 8601 text (without an offset: UTC).")
    event_id: Id | None = Field(None, description="Names the event; what comes again under a name is dropped.")
    request_id: Id | None = Field(None, description="Of the page that the item was shown on.")
    session_id: Id | None = None
    position: int | None = Field(None, ge=0, lt=2**31, description="Place on the page, from 0.")
    propensity: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    policy: NonEmpty | None = None
    value: float | None = Field(
        None, ge=-LARGEST_NUMBER, le=LARGEST_NUMBER, allow_inf_nan=False, description="Price paid, seconds or rating."
    )
    context: Context | None = None

    @field_validator("timestamp", mode="before")
    @classmethod
    def _milliseconds(cls, value: object) -> object:
        if isinstance(value, str):
            try:
                moment = dt.datetime.fromisoformat(value.strip())
            except ValueError as error:
                raise ValueError("expected ISO 8601 text or milliseconds since 1970") from error
            zoned = moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
            value = math.floor(zoned.timestamp() * 1000)
        if isinstance(value, int) and not isinstance(value, bool) and not EARLIEST_MS <= value < LATEST_MS:
            raise ValueError("expected a time from 1973 to 2099, in milliseconds since 1970 where it is a number")
        return value

    @field_validator("value")
    @classmethod
    def _price(cls, value: float | None, info: ValidationInfo) -> float | None:
        if info.data.get("event") == PURCHASE and value is not None and value < 0:
            raise PydanticCustomError(schemas.NEGATIVE_PRICE, "expected a price >= 0")
        return value

    def row(self) -> dict[str, object]:
        """Return the columns that are given; maps as JSON, as the stream has them."""
        columns = self.model_dump(exclude_none=True)
        if self.context is not None:
            columns["context"] = json.dumps(self.context)
        return columns


class Verdict(BaseModel):
    """What became of one event, in the order sent."""

    accepted: bool
    reason: str | None = Field(default=None, description=f"One of {', '.join(REASONS)}, ...")
    detail: str | None = None


class EventsResponse(BaseModel):
    """What became of all events of a request."""

    accepted: int
    rejected: int
    verdicts: list[Verdict]


class EventsRefused(ErrorResponse):
    """None of the events was accepted."""

    verdicts: list[Verdict]


class EventIntake:
    """Checks events and appends them to the stream; safe to call from several threads.

    Args:
        stream: Where to.
        metrics: Count verdicts.
        future_minutes: Events this far ahead of the clock are mistakes (`stream.future_minutes`).
        clock: Returns Unix seconds.
    """

    def __init__(
        self,
        stream: EventStream,
        metrics: ServiceMetrics,
        *,
        future_minutes: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._stream, self._metrics, self._clock = stream, metrics, clock
        self._future_minutes = future_minutes
        self._rest = Rest(STREAM_REST_S)

    def take(self, rows: Sequence[object]) -> list[Verdict]:
        """Append the good rows to the stream, and the bad ones to be kept as dead letters.

        Args:
            rows: Whatever clients sent as events.

        Returns:
            A verdict for each.

        Raises:
            ApiError: 503, the stream did not take them; send all of them again.
        """
        checked = [self._checked(row) for row in rows]
        good = [event.row() for event in checked if isinstance(event, EventSpec)]
        bad = [(verdict, row) for verdict, row in zip(checked, rows, strict=True) if isinstance(verdict, Verdict)]
        records = [StreamRecord.of_rows(EVENTS, good)] if good else []
        if bad:
            records.append(StreamRecord(EVENTS, "\n".join(_dead_line(*each) for each in bad).encode()))
        self._append(records)
        self._metrics.events.labels("accepted").inc(len(good))
        self._metrics.events.labels("rejected").inc(len(bad))
        return [Verdict(accepted=True) if isinstance(event, EventSpec) else event for event in checked]

    def _append(self, records: list[StreamRecord]) -> None:
        again = "none was accepted for certain; send all again, what is there already is dropped"
        if self._rest:
            raise ApiError(503, "stream_unavailable", f"the event stream does not answer; {again}", retry_after_s=1)
        try:
            self._stream.append(records)
        except StreamFullError as error:
            raise ApiError(503, "stream_full", f"{error}; send all again later", retry_after_s=5) from error
        except Exception as error:  # a Redis that is full or read-only says so in errors of its own
            _log.exception("events are refused")
            self._rest.begin()
            raise ApiError(503, "stream_unavailable", f"{error}; {again}", retry_after_s=1) from error

    def _checked(self, row: object) -> EventSpec | Verdict:
        try:
            event = EventSpec.model_validate(row)
        except ValidationError as error:
            mistakes = error.errors()
            return Verdict(accepted=False, reason=_reason(mistakes), detail=describe(mistakes))
        if event.timestamp > (self._clock() + 60 * self._future_minutes) * 1000:
            detail = f"timestamp: expected at most {self._future_minutes:g} minutes ahead of the clock"
            return Verdict(accepted=False, reason=schemas.IN_THE_FUTURE, detail=f"{detail}, got {event.timestamp}")
        return event


def add_events(api: FastAPI, backend: Backend) -> None:
    """Add the route."""
    one = EventSpec.model_json_schema()
    many = {
        "type": "object",
        "required": ["events"],
        "additionalProperties": False,
        "properties": {"events": {"type": "array", "items": one, "minItems": 1, "maxItems": MOST_EVENTS}},
    }
    body = {"required": True, "content": {"application/json": {"schema": {"oneOf": [many, one]}}}}

    @api.post(
        "/v1/events",
        status_code=202,
        responses={**error_responses(400, 503), 422: {"model": EventsRefused | ErrorResponse}},
        openapi_extra={"requestBody": body},
        response_model=EventsResponse | EventsRefused,
    )
    async def events(
        document: Annotated[dict[str, Any], Body(description="One event, or many as `events`.")], response: Response
    ) -> EventsResponse | EventsRefused:
        """Report events; the answer comes when the stream has them, with a verdict for each."""
        rows = document["events"] if set(document) == {"events"} else [document]
        if not isinstance(rows, list) or not 1 <= len(rows) <= MOST_EVENTS:
            came = len(rows) if isinstance(rows, list) else type(rows).__name__
            raise ApiError(422, "invalid_request", f"events: expected a list of 1 to {MOST_EVENTS} events, got {came}")
        verdicts = await backend.take_events(rows)
        rejected = [verdict for verdict in verdicts if not verdict.accepted]
        if len(rejected) == len(verdicts):
            response.status_code = 422
            detail = f"none of {len(rows)} events was accepted; the first: {rejected[0].detail}"
            return EventsRefused(error="no_event_accepted", detail=detail, verdicts=verdicts)
        return EventsResponse(accepted=len(verdicts) - len(rejected), rejected=len(rejected), verdicts=verdicts)


def _reason(mistakes: Sequence[ErrorDetails]) -> str:
    """Return the reason under which the pipeline would file a row with these mistakes."""
    by_column = {str(mistake["loc"][0]) if mistake["loc"] else "": mistake for mistake in reversed(mistakes)}
    column = first_column(by_column)
    mistake = by_column[column]
    if mistake["type"] == schemas.NEGATIVE_PRICE:
        return schemas.NEGATIVE_PRICE
    return reason_of(column, None if mistake["type"] == "missing" else mistake["input"])


def _dead_line(verdict: Verdict, row: object) -> str:
    """Return a line that the pipeline cannot take for an event, so that it is kept whatever the row holds."""
    text = json.dumps(row, default=str)[:REJECTED_CHARACTERS]
    return json.dumps({REJECTED: verdict.reason, DETAIL: verdict.detail, ROW: text})
