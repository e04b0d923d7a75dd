"""Passwords in URLs: they are used, never printed or saved."""

from __future__ import annotations

import re

_CREDENTIALS = re.compile(r"(?<=://)[^/\s]*@|(?<=password=)[^&\s]+")


def without_passwords(text: str) -> str:
    """Leave user and password out of every URL in a text.

    Example:
        >>> without_passwords("redis://:secret@cache:6379/0 and sqlite:////data/a@b.db")
        'redis://cache:6379/0 and sqlite:////data/a@b.db'
    """
    return _CREDENTIALS.sub("", text)
