"""Requests and answers of the HTTP interface, and its errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from features.ids import ID, is_id
from features.schemas import MOST_ID_BYTES

_CAME_CHARACTERS = 100
"""So much of a value is told to whom it came from."""
NonEmpty = Annotated[str, Field(min_length=1, max_length=1024)]


def _checked_id(value: str) -> str:
    if not is_id(value):
        raise ValueError(f"expected {ID}")
    return value


Id = Annotated[str, Field(min_length=1, max_length=MOST_ID_BYTES), AfterValidator(_checked_id)]
"""An id as `features.ids` wants it; the page of the API says it in characters, which are bytes at least."""
Context = Annotated[dict[NonEmpty, Annotated[str, Field(max_length=1024)]], Field(max_length=32)]
"""Few entries: each name becomes a column of the whole batch, and thousands of them would hold up everybody's page."""


class ApiError(Exception):
    """An error that knows its HTTP status.

    Attributes:
        status: HTTP status.
        error: Name for programs.
        detail: What was expected, what came, what to do.
        retry_after_s: After how many seconds to ask again, where that may help.
    """

    def __init__(self, status: int, error: str, detail: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.status, self.error, self.detail = status, error, detail
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> dict[str, str] | None:
        """HTTP headers of the answer."""
        return None if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class FilterSpec(_Strict):
    """What every item of the page must fulfil."""

    category: str | None = Field(None, description="A name anywhere on the item's category path.")
    brand: str | None = None
    min_price: float | None = Field(None, ge=0, allow_inf_nan=False, description="Items without a price do not pass.")
    max_price: float | None = Field(None, ge=0, allow_inf_nan=False, description="Items without a price do not pass.")


class RecommendRequest(_Strict):
    """Ask for a page."""

    user_id: Id = Field(description="Any id; an unknown one gets the popular list.")
    page_size: int | None = Field(None, ge=1, description="Items on the page; the release has a default and a maximum.")
    filters: FilterSpec | None = None
    context: Context | None = Field(
        None, description="The situation, as names and values; models look at what they saw in logged contexts."
    )
    cursor: str | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="`next_cursor` of a page: asks for the page after it. What else was asked for the first page holds "
        "for all pages of a list and need not be said again.",
    )


class RecommendedItem(BaseModel):
    """One item of a page."""

    item_id: str
    score: float
    source: str = Field(description="The retriever that contributed most to the score.")
    parts: dict[str, float] | None = Field(
        None,
        exclude_if=lambda parts: parts is None,
        description="With explain=true: what retrievers, ranker, boosts and diversity contribute to the score.",
    )


class RecommendResponse(BaseModel):
    """A page, best item first; shorter than asked for, or empty, where nothing else may be shown."""

    request_id: str
    items: list[RecommendedItem]
    next_cursor: str | None = Field(
        None, description="Asks for the next page of this list; null where nothing is left, or Redis does not answer."
    )
    release: str
    delta: int = Field(description="The release's catalogue delta that the page was made with, 0 for none.")
    policy: str
    arm: str
    fallback: str | None = Field(
        None, description="What stood in for the first choice or was lacking, if anything was."
    )
    reason: str | None = Field(None, description="Why there are fewer items than asked for, if there are.")


class SimilarItem(BaseModel):
    """An item that users turn to around another one."""

    item_id: str
    score: float


class SimilarResponse(BaseModel):
    """Items similar to one, most similar first."""

    item_id: str
    items: list[SimilarItem]
    release: str
    delta: int


class VersionResponse(BaseModel):
    """What is running."""

    version: str
    release: str
    delta: int
    delta_refused: str | None = Field(description="Why a newer catalogue delta is not served, if there is one.")
    generation: str
    code_version: str
    arm: str
    policy: str
    retrievers: list[str]
    runs: dict[str, str]
    items: int
    store_generation: str | None
    store_newest_event_time: int | None
    challenger: str | None = Field(default=None, description="The release that serves a share of the users instead.")
    challenger_share: float = 0.0


class ErrorResponse(BaseModel):
    """Every answer with a status of 400 or more."""

    error: str
    detail: str


def describe(mistakes: Sequence[Mapping[str, Any]]) -> str:
    """Return all mistakes of a request in one line: where, what is wrong, what came.

    Example:
        >>> describe([{"loc": ("body", "page_size"), "msg": "Input should be a valid integer", "input": "x"}])
        "body.page_size: Input should be a valid integer, got 'x'"
    """
    return "; ".join(map(_describe, mistakes))


def _describe(mistake: Mapping[str, Any]) -> str:
    came, message = mistake.get("input"), str(mistake["msg"]).removeprefix("Value error, ")
    if isinstance(came, bytes):  # FastAPI parses a body only if its type says JSON
        message = "expected JSON and the header Content-Type: application/json"
    place = f"{'.'.join(map(str, mistake['loc']))}: " if mistake["loc"] else ""
    shown = repr(came[:_CAME_CHARACTERS]) if isinstance(came, str | bytes) else repr(came)[:_CAME_CHARACTERS]
    return place + message + ("" if mistake.get("type") == "missing" else f", got {shown}")


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe errors for the OpenAPI document."""
    return {status: {"model": ErrorResponse} for status in statuses}
