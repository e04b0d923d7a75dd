"""Ids within addresses: `{user_id:id}` in a path takes any text, so that the rule for ids answers, not a 404."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from fastapi import Request
from starlette.convertors import Convertor, register_url_convertor

from serving.api import ApiError


class _IdConvertor(Convertor[str]):
    """Unlike Starlette's `path`, it takes line ends, too."""

    regex = r"[\s\S]*"

    def convert(self, value: str) -> str:
        """Return the text."""
        return value

    def to_string(self, value: str) -> str:
        """Return the text."""
        return value


register_url_convertor("id", _IdConvertor())


def utf8_only(request: Request) -> None:
    """Refuse an address that is no UTF-8: servers put U+FFFD in its place, which would name somebody else.

    Raises:
        ApiError: 422, with the first such byte.
    """
    for name in ("raw_path", "query_string"):
        try:
            unquote_to_bytes(request.scope.get(name) or b"").decode()
        except UnicodeDecodeError as error:
            came = f"%{error.object[error.start]:02X}"
            detail = f"the address: expected percent-encoded UTF-8, got {came} at byte {error.start + 1}"
            raise ApiError(422, "invalid_request", detail) from error
